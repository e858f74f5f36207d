"""The channel graph as a whole: groups and their names, what is frozen and why, and its JSON."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compressor.pruning.cutting import cut
from compressor.pruning.cutting.proof import check_cut
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.plan import plan_keeping
from tests.compressor.networks import (
    MLP,
    Attention,
    ChannelsLast,
    Dense,
    Function,
    GatedMLP,
    OnTokens,
    PooledHead,
    Residual,
    images,
    networks,
    proven,
    random_units,
    with_statistics,
)


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
        lambda self, x: self.head(self.body(self.stem(x).renorm(2, 0, 1.0))),
        stem=nn.Conv2d(3, 8, 1),
        body=nn.Conv2d(8, 6, 1),
        head=nn.Conv2d(6, 5, 1),
    )
    value = json.loads(json.dumps(trace(network, images(1)).to_dict()))
    assert [group["name"] for group in value["groups"]] == ["body"]
    assert {group["name"]: group["reason"] for group in value["not_cut"]} == {
        "stem": "no rule for the operator `renorm` in the network itself",
        "head": "the network's output",
    }
    (found,) = value["without_rule"]
    assert (found["module"], found["operator"]) == ("", "renorm")
    assert found["line"].startswith("test_graph_trace.py:")


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


# --- Attention: width inside every head, or whole heads.

HEADS, WIDTH, TOKENS = 3, 4, 16


class Windows(nn.Module):
    """Attention inside windows of a shifted picture, as in Swin."""

    def __init__(self, width: int, side: int, shift: int) -> None:
        super().__init__()
        self.look, self.side, self.shift = (
            Attention(width, HEADS, WIDTH, side * side, "relative"),
            side,
            shift,
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, across = x.shape
        side, (rows, columns) = self.side, (height // self.side, across // self.side)
        x = torch.roll(x, (-self.shift, -self.shift), (2, 3))
        x = x.view(batch, width, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
        x = self.look(x.reshape(-1, side * side, width))
        x = x.view(batch, rows, columns, side, side, width).permute(0, 5, 1, 3, 2, 4)
        return torch.roll(x.reshape(batch, width, height, across), (self.shift, self.shift), (2, 3))


class WithToken(nn.Module):
    """A class token, positions, a block, a head that reads the token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, TOKENS + 1, width))
        self.look = Attention(width, HEADS, WIDTH, TOKENS + 1, "fused")
        self.mlp = MLP(width, 16, nn.LayerNorm)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x.flatten(2).mT], 1) + self.places
        return self.head(self.mlp(self.look(x))[:, 0])


class MultiQuery(nn.Module):
    """One head of keys and values for all heads of queries."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(width, HEADS * WIDTH), nn.Linear(width, 2 * WIDTH)
        self.out = nn.Linear(HEADS * WIDTH, width)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (HEADS, WIDTH)).transpose(1, 2)
        k, v = self.kv(x).chunk(2, -1)
        weights = (q @ k.mT.unsqueeze(1) * 0.5).softmax(-1)
        return x + self.out((weights @ v.unsqueeze(1)).transpose(1, 2).flatten(2))


def on_pictures(block: nn.Module, width: int = 12) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 2, 2), block, PooledHead(width))


ATTENTION: dict[str, Callable[[], nn.Module]] = {
    **{
        style: lambda style=style: on_pictures(OnTokens(Attention(12, HEADS, WIDTH, TOKENS, style)))
        for style in Attention.STYLES
    },
    "windows": lambda: on_pictures(Windows(12, 2, 0)),
    "shifted windows": lambda: on_pictures(Windows(12, 2, 1)),
    "a class token": lambda: nn.Sequential(nn.Conv2d(3, 12, 2, 2), WithToken(12)),
    "one head of keys for all": lambda: on_pictures(OnTokens(MultiQuery(12))),
}


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return with_statistics(ATTENTION[name]())


def proven_by_lot(network: nn.Module, graph: ChannelGraph) -> None:
    for seed in range(3):
        plan = plan_keeping(graph, random_units(graph, seed))
        checks = check_cut(network, cut(network, plan), plan, images())
        assert proven(checks), checks


def inner(graph: ChannelGraph) -> dict[str, int]:
    """The units of the groups inside attention: those that the residual stream does not carry."""
    return {g.name: g.units for g in graph.groups if g.name != "0" and "mlp" not in g.name}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_loses_width_inside_every_head(name: str) -> None:
    network = built(name)
    graph = trace(network, images(1))
    assert graph.unsupported == ()
    assert inner(graph)
    assert all(units == WIDTH for units in inner(graph).values()), inner(graph)
    proven_by_lot(network, graph)


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_loses_whole_heads(name: str) -> None:
    network = built(name)
    graph = trace(network, images(1), whole_heads=True)
    assert graph.unsupported == ()
    proven_by_lot(network, graph)
    if name not in ("cross", "one head of keys for all"):  # their heads are no box of their own everywhere
        assert set(inner(graph).values()) == {HEADS}, inner(graph)


def test_a_table_of_relative_positions_loses_the_columns_of_the_heads_that_go() -> None:
    network = built("relative")
    graph = trace(network, images(1), whole_heads=True)
    (group,) = [g for g in graph.groups if g.units == HEADS]
    assert ("1.module.table", 1) in {(slot.tensor, slot.axis) for slot in group.slots}
    student = cut(network, plan_keeping(graph, {group.name: (0, 2)}))
    assert student.get_parameter("1.module.table").shape == (2 * TOKENS - 1, 2)


def test_layer_scale_and_gates_go_with_what_they_scale() -> None:
    torch.manual_seed(0)
    network = on_pictures(ChannelsLast(nn.Sequential(MLP(12, 16, nn.RMSNorm), GatedMLP(12, 6, False))))
    graph = trace(network, images(1))
    assert "1.module.0.gamma" in {slot.tensor for slot in graph.group("0").slots}
    gate = graph.group("1.module.1.both")
    assert gate.units == 6
    assert gate.slots[0].indices.tolist() == [[i, i + 6] for i in range(6)]
    proven_by_lot(network.eval(), graph)


# --- Sizes.


@settings(max_examples=25, deadline=None)
@given(networks(), st.integers(0, 2**16))
def test_every_size_in_the_graph_is_that_of_the_student(network: nn.Module, seed: int) -> None:
    graph = trace(network, images(1))
    kept = random_units(graph, seed)
    plan = plan_keeping(graph, kept)
    student = dict(cut(network, plan).named_parameters())
    for parameter in graph.parameters:
        sizes = [
            factor.constant
            + sum(times * len(kept[graph.groups[group].name]) for group, times in factor.times)
            for factor in parameter.factors
        ]
        if parameter.name in student:
            assert sizes == list(student[parameter.name].shape), parameter.name


@settings(max_examples=25, deadline=None)
@given(networks())
def test_units_share_no_index_and_fill_only_what_is_there(network: nn.Module) -> None:
    graph = trace(network, images(1))
    owned: dict[tuple[str, int], list[int]] = {}
    for group in graph.groups:
        assert group.units > 1
        assert group.produces
        for slot in group.slots:
            assert slot.indices.shape[0] == group.units
            owned.setdefault((slot.tensor, slot.axis), []).extend(slot.indices.ravel().tolist())
    for (tensor, axis), indices in owned.items():
        assert len(indices) == len(set(indices)), (tensor, axis)
        assert set(indices) <= set(range(graph.shapes[tensor][axis]))


@settings(max_examples=10, deadline=None)
@given(networks())
def test_tracing_is_repeatable_and_knows_no_batch(network: nn.Module) -> None:
    one, two = trace(network, images(1)), trace(network, images(3))
    assert one.to_dict() == two.to_dict()
    for a, b in zip(one.groups, two.groups, strict=True):
        for slot, other in zip(a.slots, b.slots, strict=True):
            assert np.array_equal(slot.indices, other.indices)
