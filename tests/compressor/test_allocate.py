"""What is asked is reached, or missed by a little and explained; on the granule, and never empty."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from compressor.artifacts.student import same_bits
from compressor.errors import UsageError
from compressor.models.names import ModelSource, build
from compressor.profiling import count
from compressor.pruning.cutting import cut
from compressor.pruning.graph.channels import ChannelGraph, Group, Slot
from compressor.pruning.graph.cost import COSTS
from compressor.pruning.graph.trace import trace
from compressor.pruning.scoring.scores import Scores
from compressor.pruning.widths.allocate import CLOSE, Allocation, allocate, granule_of
from compressor.pruning.widths.plan import Plan
from compressor.recipe.budget import Budget
from tests.compressor.networks import images, networks


@pytest.fixture(scope="module")
def glyphnet() -> ChannelGraph:
    return trace(build(ModelSource("glyphnet", 5)), images(1, side=32))


def random_scores(graph: ChannelGraph, seed: int = 0) -> Scores:
    rng = np.random.default_rng(seed)
    return Scores("random", {group.name: rng.random(group.units) for group in graph.groups})


def allocated(graph: ChannelGraph, budget: Budget, containing: Plan | None = None) -> Allocation:
    return allocate(graph, random_scores(graph), budget, containing=containing)


@pytest.mark.parametrize("of", COSTS)
@pytest.mark.parametrize("remove", [0.1, 0.5, 0.7, 0.9])
def test_what_is_asked_is_reached_and_hardly_more(glyphnet: ChannelGraph, remove: float, of: str) -> None:
    allocation = allocated(glyphnet, Budget(remove, of, granule=1, keep_at_least=0.02))
    assert abs(allocation.plan.removed(of) - remove) <= CLOSE
    assert allocation.missed is None


@settings(max_examples=40, deadline=None)
@given(networks(), st.floats(0.05, 0.95), st.sampled_from(sorted(COSTS)), st.sampled_from((1, 2, 4, 8)))
def test_what_is_removed_is_never_short_by_more_than_is_called_close(
    network: nn.Module, remove: float, of: str, granule: int
) -> None:
    graph = trace(network, images(1))
    assume(graph.groups)
    try:
        allocation = allocated(graph, Budget(remove, of, granule=granule, keep_at_least=0.0))
    except UsageError as error:
        largest = float(re.search(r"--ratio ([\d.]+) or less", str(error.hint)).group(1))
        assert largest < remove
        assume(largest > 0)
        allocation = allocated(graph, Budget(largest, of, granule=granule, keep_at_least=0.0))
        remove = largest
    plan = allocation.plan
    assert plan.removed(of) >= remove - CLOSE
    assert all(1 <= kept <= units for units, kept in plan.widths.values())
    assert (allocation.missed is None) == (plan.removed(of) - remove <= CLOSE)
    counted = count(cut(network, plan), (images(),))
    assert (plan.costs["macs"][1], plan.costs["params"][1]) == (counted.macs, counted.params)


@pytest.mark.parametrize("granule", [1, 4, 8, 12])
def test_widths_lie_on_the_granule_where_a_layer_is_wide_enough(glyphnet: ChannelGraph, granule: int) -> None:
    plan = allocated(glyphnet, Budget(0.6, granule=granule)).plan
    wide = [pair for pair in plan.widths.values() if pair[0] >= 4 * granule]
    assert wide
    assert all(kept % granule == 0 or kept == units for units, kept in wide)


@pytest.mark.parametrize(
    ("units", "per_unit", "granule", "step"),
    [
        (32, 1, 8, 8),
        (31, 1, 8, 4),
        (16, 1, 8, 4),
        (8, 1, 8, 2),
        (4, 1, 8, 1),
        (3, 1, 8, 1),
        (128, 1, 12, 12),
        (32, 4, 8, 2),
        (2, 8, 8, 1),
    ],
)
def test_narrow_layers_take_the_largest_smaller_power_of_two(
    units: int, per_unit: int, granule: int, step: int
) -> None:
    slot = Slot("w", 0, np.arange(units * per_unit).reshape(units, per_unit))
    assert granule_of(Group("w", units, (slot,), (slot,)), granule) == step


def test_the_highest_scores_stay_and_among_equals_the_earlier() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1))
    graph = trace(network, images(1))
    scores = Scores("given", {"0": np.array([1.0, 5.0, 2.0, 5.0, 2.0, 0.0, 2.0, 9.0])})
    plan = allocate(graph, scores, Budget(0.5, granule=1)).plan
    assert plan.slices["0.weight"][0] == (1, 2, 3, 7)


def test_groups_with_higher_scores_stay_wider(glyphnet: ChannelGraph) -> None:
    favoured = glyphnet.groups[-1].name
    by_group = {name: own + 10 * (name == favoured) for name, own in random_scores(glyphnet).by_group.items()}
    plan = allocate(glyphnet, Scores("given", by_group), Budget(0.3)).plan
    assert plan.widths[favoured][0] == plan.widths[favoured][1]


def test_groups_in_modules_that_are_kept_stay_whole(glyphnet: ChannelGraph) -> None:
    plan = allocated(glyphnet, Budget(0.4, keep=("stage1.*",))).plan
    ignored = [name for name in plan.widths if name.startswith("stage1.")]
    assert ignored
    assert all(plan.widths[name][0] == plan.widths[name][1] for name in ignored)
    assert any(kept < units for units, kept in plan.widths.values())
    assert allocated(glyphnet, Budget(0.4)).plan.widths[ignored[0]][1] < plan.widths[ignored[0]][1]


def test_every_group_keeps_its_least_share(glyphnet: ChannelGraph) -> None:
    scores = random_scores(glyphnet)
    starved = glyphnet.groups[0].name
    by_group = {name: own * (0.0 if name == starved else 1.0) for name, own in scores.by_group.items()}
    plan = allocate(glyphnet, Scores("given", by_group), Budget(0.5, keep_at_least=0.25)).plan
    units, kept = plan.widths[starved]
    assert (units, kept) == (24, 8)  # a quarter is six, and the granule rounds it up


def test_an_unreachable_request_names_the_largest_that_works(glyphnet: ChannelGraph) -> None:
    with pytest.raises(
        UsageError, match=r"cannot remove 99.0% of the MACs: at most [\d.]+% can be removed"
    ) as caught:
        allocated(glyphnet, Budget(0.99, keep_at_least=0.2))
    largest = float(re.search(r"use --ratio ([\d.]+) or less", str(caught.value.hint)).group(1))
    assert allocated(glyphnet, Budget(largest, keep_at_least=0.2)).plan.removed("macs") >= largest - CLOSE
    with pytest.raises(UsageError):
        allocated(glyphnet, Budget(largest + 0.002, keep_at_least=0.2))


@pytest.mark.parametrize("network", [nn.ReLU(), nn.Conv2d(3, 5, 1)])
def test_a_network_with_nothing_to_cut_is_told_so(network: nn.Module) -> None:
    with pytest.raises(UsageError, match="no channel can be removed"):
        allocated(trace(network, images(1)), Budget(0.5))


def test_a_step_too_coarse_is_named() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 5, 1))
    allocation = allocated(trace(network, images(1)), Budget(0.4))
    assert allocation.missed == (
        "removed 66.7% instead of 40.0% of the MACs: the smallest step left, 1 units of `0`, "
        "is 33.3%, and no exchange of two steps comes closer"
    )


def test_a_larger_plan_contains_the_smaller_made_from_the_same_scores(glyphnet: ChannelGraph) -> None:
    student = allocated(glyphnet, Budget(0.8)).plan
    assistant = allocated(glyphnet, Budget(0.4), containing=student).plan
    torch.manual_seed(0)
    network = build(ModelSource("glyphnet", 5))
    assert same_bits(cut(cut(network, assistant), student.within(assistant)), cut(network, student))


def test_a_contained_plan_of_another_cost_is_still_contained(glyphnet: ChannelGraph) -> None:
    student = allocated(glyphnet, Budget(0.6, "params")).plan
    assistant = allocated(glyphnet, Budget(0.2, "macs"), containing=student).plan
    assert all(assistant.widths[name][1] >= kept for name, (_, kept) in student.widths.items())
    assert student.within(assistant).after(assistant).slices == student.slices


def test_equal_scores_are_enough(glyphnet: ChannelGraph) -> None:
    ones = Scores("ones", {group.name: np.ones(group.units) for group in glyphnet.groups})
    plan = allocate(glyphnet, ones, Budget(0.5)).plan
    assert abs(plan.removed("macs") - 0.5) <= CLOSE


@pytest.mark.parametrize("remove", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_share_outside_zero_and_one_is_refused(remove: float) -> None:
    with pytest.raises(UsageError, match="cannot remove") as caught:
        Budget(remove)
    assert "above 0 and below 1" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"of": "mac"}, "unknown cost `mac`"),
        ({"granule": 0}, "budget.granule is 0, expected at least 1"),
        ({"keep_at_least": 1.5}, "budget.keep_at_least is 1.5"),
    ],
)
def test_other_settings_of_a_budget_are_checked(settings_: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Budget(0.5, **settings_)  # type: ignore[arg-type]


def test_modules_that_are_kept_lose_nothing_on_either_side(glyphnet: ChannelGraph) -> None:
    plan = allocated(glyphnet, Budget(0.4, keep=("stage2",))).plan
    assert plan.slices
    assert not [name for name in plan.slices if name.startswith("stage2.")]


def test_a_pattern_that_fits_no_module_is_an_error(glyphnet: ChannelGraph) -> None:
    with pytest.raises(UsageError, match="no module of the network matches the pattern `stage9"):
        allocated(glyphnet, Budget(0.4, keep=("stage9.*",)))
