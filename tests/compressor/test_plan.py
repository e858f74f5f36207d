"""Plans: indices kept, in terms of tensors; they survive JSON and compose."""

from __future__ import annotations

import json

import pytest
from torch import nn

from compressor.errors import CompressError
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.plan import Plan, plan_keeping
from tests.compressor.networks import images


def graph() -> ChannelGraph:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, groups=4), nn.Flatten(), nn.Linear(256, 6), nn.Linear(6, 5)
    )
    return trace(network, images(1))


def test_a_plan_lists_what_stays_of_every_slot() -> None:
    plan = plan_keeping(graph(), {"0": (1, 3)})
    assert plan.slices["0.weight"] == {0: (1, 3)}
    assert plan.slices["1.weight"] == {0: (1, 3)}
    assert plan.slices["3.weight"] == {1: (*range(64, 128), *range(192, 256))}
    assert plan.blocks == {"1.weight": 2}
    assert plan.widths == {"0": (4, 2), "3": (6, 6)}


def test_the_order_in_which_units_are_named_does_not_matter() -> None:
    assert plan_keeping(graph(), {"0": (3, 1)}) == plan_keeping(graph(), {"0": (1, 3)})


def test_keeping_everything_cuts_nothing() -> None:
    plan = plan_keeping(graph(), {"0": (0, 1, 2, 3)})
    assert plan.slices == {}
    assert plan.blocks == {}


def test_keeping_nothing_of_a_group_is_refused() -> None:
    with pytest.raises(
        CompressError, match="cannot cut `0`: 4 units, the plan keeps 0, at least 1 must stay"
    ):
        plan_keeping(graph(), {"0": ()})


def test_a_plan_survives_json() -> None:
    plan = Plan({"a": {0: (1, 2), 1: (0,)}}, {"a": 2}, {"g": (4, 2)}, {"macs": (100, 30)})
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_the_share_removed_is_of_the_cost_before() -> None:
    assert Plan({}, costs={"macs": (200, 50)}).removed("macs") == 0.75


def test_two_plans_compose_to_the_indices_of_the_first_network() -> None:
    first = Plan({"a": {0: (1, 3, 5, 7)}}, {"a": 4}, {"g": (8, 4)}, {"macs": (80, 40)})
    second = Plan({"a": {0: (0, 3)}, "b": {1: (2,)}}, {"a": 2}, {"g": (4, 2)}, {"macs": (40, 20)})
    assert second.after(first) == Plan(
        {"a": {0: (1, 7)}, "b": {1: (2,)}}, {"a": 2}, {"g": (8, 2)}, {"macs": (80, 20)}
    )


def test_what_is_left_to_do_is_in_the_indices_of_the_larger_network() -> None:
    larger = Plan({"a": {0: (1, 3, 5, 7)}}, {"a": 4}, {"g": (8, 4)}, {"macs": (80, 40)})
    smaller = Plan({"a": {0: (1, 7)}, "b": {1: (2,)}}, {"a": 2}, {"g": (8, 2)}, {"macs": (80, 20)})
    rest = smaller.within(larger)
    assert rest == Plan({"a": {0: (0, 3)}, "b": {1: (2,)}}, {"a": 2}, {"g": (4, 2)}, {"macs": (40, 20)})
    assert rest.after(larger) == smaller


def test_a_plan_that_is_not_contained_names_the_tensor() -> None:
    larger = Plan({"a": {0: (1, 3)}})
    with pytest.raises(CompressError, match="cannot cut `a`: index 2 is kept by the smaller plan"):
        Plan({"a": {0: (1, 2)}}).within(larger)


@pytest.mark.parametrize("smaller", [Plan({}), Plan({"a": {1: (0,)}})])
def test_a_plan_that_keeps_whole_what_the_larger_cuts_is_not_contained(smaller: Plan) -> None:
    with pytest.raises(
        CompressError, match="cannot cut `a`: the smaller plan keeps what the larger one removes"
    ):
        smaller.within(Plan({"a": {0: (1, 3)}}))
