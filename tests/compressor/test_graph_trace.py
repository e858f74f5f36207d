"""The channel graph as a whole: groups and their names, what is frozen and why, and its JSON."""

from __future__ import annotations

import json

import torch
from torch import Tensor, nn

from compressor.graph.trace import trace
from tests.compressor.networks import Dense, Function, Residual, images


def residual_stage() -> nn.Sequential:
    stage = [Residual(8, 8, True, nn.ReLU) for _ in range(2)]
    return nn.Sequential(nn.Conv2d(3, 8, 1), *stage, Residual(8, 12, True, nn.ReLU), nn.Conv2d(12, 5, 1))


def test_all_layers_of_a_residual_stage_are_one_group_named_after_the_first() -> None:
    graph = trace(residual_stage(), images(1))
    stage = graph.group("0")
    assert [slot.tensor for slot in stage.produces] == ["0.weight", "1.body.2.0.weight", "2.body.2.0.weight"]
    assert str(stage).startswith("0: 8 units in ")
    assert str(stage).endswith("slots from 0, 1.body.2.0, 2.body.2.0")


def test_a_projection_begins_a_new_group() -> None:
    graph = trace(residual_stage(), images(1))
    wider = graph.group("3.body.2.0")
    assert [slot.tensor for slot in wider.produces] == ["3.body.2.0.weight", "3.shortcut.0.weight"]
    assert wider.units == 12


def test_inner_layers_of_a_block_are_groups_of_their_own() -> None:
    graph = trace(residual_stage(), images(1))
    names = [group.name for group in graph.groups]
    assert names == ["0", "1.body.0.0", "2.body.0.0", "3.body.0.0", "3.body.2.0"]


def test_every_new_part_of_a_dense_block_is_a_group_read_by_all_that_follow() -> None:
    graph = trace(nn.Sequential(nn.Conv2d(3, 4, 1), Dense(4, 2, 3, nn.ReLU), nn.Conv2d(10, 5, 1)), images(1))
    readers = {group.name: [slot.tensor for slot in group.slots if slot.axis == 1] for group in graph.groups}
    assert readers["0"] == [f"1.layers.{i}.2.weight" for i in range(3)] + ["2.weight"]
    assert readers["1.layers.1.2"] == ["1.layers.2.2.weight", "2.weight"]
    assert readers["1.layers.2.2"] == ["2.weight"]


def test_running_statistics_are_slots_too() -> None:
    graph = trace(residual_stage(), images(1))
    assert {"1.body.0.1.running_mean", "1.body.0.1.running_var"} <= {
        slot.tensor for slot in graph.group("1.body.0.0").slots
    }


def test_the_size_of_the_picture_and_the_number_of_samples_do_not_matter() -> None:
    network = residual_stage()
    small, large = trace(network, images(1)), trace(network, images(3, side=24))
    assert small.to_dict() == large.to_dict()


def test_tracing_twice_gives_the_same_graph() -> None:
    network = residual_stage()
    assert trace(network, images(1)).to_dict() == trace(network, images(1)).to_dict()


def test_the_graph_survives_json_with_reasons_and_unsupported_operators() -> None:
    network = Function(
        lambda self, x: self.head(self.body(self.stem(x).flip(1))),
        stem=nn.Conv2d(3, 8, 1),
        body=nn.Conv2d(8, 6, 1),
        head=nn.Conv2d(6, 5, 1),
    )
    value = json.loads(json.dumps(trace(network, images(1)).to_dict()))
    assert [group["name"] for group in value["groups"]] == ["body"]
    assert {group["name"]: group["reason"] for group in value["not_cut"]} == {
        "stem": "no rule for the operator `flip` in the network itself",
        "head": "the network's output",
    }
    assert value["without_rule"] == [{"module": "", "operator": "flip"}]


def test_a_group_that_is_left_whole_says_why_in_its_line() -> None:
    graph = trace(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)), images(1))
    assert str(graph.group("1")) == "1: 5 units in 2 slots: not cut, the network's output"


def test_two_groups_made_by_one_layer_get_two_names() -> None:
    network = Function(
        lambda self, x: self.head(self.both(x) + torch.cat([self.one(x), self.two(x)], 1)),
        both=nn.Conv2d(3, 8, 1),
        one=nn.Conv2d(3, 2, 1),
        two=nn.Conv2d(3, 6, 1),
        head=nn.Conv2d(8, 5, 1),
    )
    graph = trace(network, images(1))
    assert [(group.name, group.units) for group in graph.groups] == [("both", 2), ("both#2", 6)]
    assert graph.group("both#2").slots[0].indices.ravel().tolist() == [2, 3, 4, 5, 6, 7]


def test_a_layer_that_is_never_used_is_in_no_group() -> None:
    network = Function(
        lambda self, x: self.head(self.stem(x)),
        stem=nn.Conv2d(3, 8, 1),
        head=nn.Conv2d(8, 5, 1),
        unused=nn.Conv2d(8, 8, 1),
    )
    graph = trace(network, images(1))
    groups = (*graph.groups, *graph.frozen)
    assert not any(slot.tensor.startswith("unused") for group in groups for slot in group.slots)


def test_several_inputs_are_traced() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(1, 8, 1)
            self.head = nn.Conv2d(8, 5, 1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.head(self.left(x) + self.right(y))

    graph = trace(Both(), (images(1), images(1)[:, :1]))
    assert [slot.tensor for slot in graph.group("left").produces] == ["left.weight", "right.weight"]


def test_a_network_without_parameters_has_an_empty_graph() -> None:
    graph = trace(nn.ReLU(), images(1))
    assert (graph.groups, graph.frozen, graph.layers, graph.parameters) == ((), (), (), ())
