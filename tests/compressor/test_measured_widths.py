"""Widths by what is measured: blocks make a cost, real networks correct it, and what cannot be met is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compressor.base.cache import cache_root
from compressor.errors import CompressError, UsageError
from compressor.methods import stages
from compressor.profiling import Between, NodeTime, NodeTimes, blocks_of, count_file
from compressor.pruning.graph.cost import costs_of, full_widths
from compressor.pruning.graph.trace import trace
from compressor.pruning.scoring.score import score
from compressor.pruning.widths.allocate import allocate, choices_for
from compressor.pruning.widths.latency_blocks import Beside, marks, patterns, wanted_blocks
from compressor.recipe import ExportRecipe, ProfileRecipe
from compressor.recipe.budget import Budget
from compressor.recipe.saliency import Scoring
from compressor.run.measured_widths.bench import Bench, _beside
from compressor.run.measured_widths.fit import fit, measured_costs
from tests.compressor.networks import images


class Residual(nn.Module):
    """A stem, a residual block whose two ends are one group, a depthwise layer and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU())
        self.inside = nn.Sequential(
            nn.Conv2d(64, 96, 3, padding=1), nn.ReLU(), nn.Conv2d(96, 64, 3, padding=1)
        )
        self.depthwise = nn.Conv2d(64, 64, 3, groups=64)
        self.last = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.depthwise(torch.relu(x + self.inside(x)))
        return self.last(x.mean((2, 3)))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Residual().eval()


@pytest.fixture
def bench(network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    return Bench(network, images(1, side=32), tmp_path, ExportRecipe(), ProfileRecipe(samples=20))


@pytest.fixture
def int8(network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    profile = ProfileRecipe(samples=20)
    return Bench(network, images(1, side=32), tmp_path, ExportRecipe(), profile, "onnx-int8")


def test_every_layer_finds_its_block_in_the_file(network: nn.Module, bench: Bench) -> None:
    graph = trace(network, images(1, side=32))
    macs = [layer.macs for layer in count_file(bench.file).layers]
    found = patterns(graph, blocks_of(bench.file), macs)

    assert [pattern and pattern.layer.name for pattern in found] == [
        "stem.0", "inside.0", "inside.2", "depthwise", "last"
    ]  # fmt: skip
    depthwise = found[3]
    assert depthwise is not None
    assert depthwise.at(24, 1).groups == 24


def test_a_file_of_another_network_is_refused(network: nn.Module, bench: Bench) -> None:
    graph = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)), images(1))
    macs = [layer.macs for layer in count_file(bench.file).layers]
    with pytest.raises(CompressError, match="cannot measure layers"):
        patterns(graph, blocks_of(bench.file), macs)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("multiple", [1, 4])
def test_marks_reach_from_the_least_to_the_most_and_can_be_built(multiple: int, dense: bool) -> None:
    found = marks((8.0, 512.0), multiple, dense=dense)
    assert (found[0], found[-1]) == (8, 512)
    assert found == sorted(set(found))
    assert all(mark % multiple == 0 for mark in found)
    assert marks((3.0, 3.0), multiple, dense=dense) == [3]


def test_the_teachers_latency_is_what_was_measured_and_the_narrowest_takes_much_less(
    network: nn.Module, bench: Bench
) -> None:
    graph = trace(network, images(1, side=32))
    latency = bench.latency(graph, Budget(0.5, "latency"))
    full = full_widths(graph)

    assert latency.of(full) == pytest.approx(bench.teacher_ms)
    assert latency.of(np.maximum(full // 8, 1)) < latency.of(full) / 2


def test_blocks_are_measured_once_on_a_machine(
    network: nn.Module, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, budget = trace(network, images(1, side=32)), Budget(0.5, "latency")
    first = bench.latency(graph, budget)
    asked: list[int] = []

    def counted(blocks: list[object], **options: object) -> object:
        asked.append(len(blocks))
        return original(blocks, **options)

    import compressor.run.measured_widths.bench as timing

    original = timing.time_blocks
    monkeypatch.setattr(timing, "time_blocks", counted)
    again = bench.latency(graph, budget)

    assert asked == [0]
    assert [layer.name for layer in again.layers] == [layer.name for layer in first.layers]


def test_in_int8_files_and_blocks_of_eight_bits_are_timed_and_plain_ones_weighed(
    network: nn.Module, int8: Bench
) -> None:
    graph, budget = trace(network, images(1, side=32)), Budget(0.5, "latency-int8")
    scores = score(network, graph, Scoring("l2"))
    costs = measured_costs(graph, budget, int8)
    fitted = fit(network, graph, scores, budget, int8, costs)

    shipped = [path for path in int8.file.parent.iterdir() if path.name.endswith(".onnx-int8.onnx")]
    assert len(shipped) == 2 + len(fitted.rounds)  # the teacher's and the plain control's
    assert all(b"QuantizeLinear" in path.read_bytes() for path in shipped)
    real = fitted.chosen.real
    assert real is not None
    assert real.bytes == real.file.stat().st_size
    assert b"QuantizeLinear" not in real.file.read_bytes()
    assert fitted.about == "onnxruntime on the CPU in INT8, batch 1, 1 thread"


def test_blocks_of_both_files_are_kept_apart(network: nn.Module, bench: Bench, int8: Bench) -> None:
    graph, budget = trace(network, images(1, side=32)), Budget(0.5, "latency")
    bench.latency(graph, budget)
    int8.latency(graph, budget)
    kept = list((cache_root() / "blocks").iterdir())
    assert len(kept) == 2


def test_what_the_runtime_spends_on_every_node_stays_at_any_width(network: nn.Module, bench: Bench) -> None:
    graph = trace(network, images(1, side=32))
    latency = bench.latency(graph, Budget(0.5, "latency"))
    fixed = [part for part in latency.rest if not part.factors]
    assert len(fixed) == 1
    nothing = np.zeros(len(graph.groups), np.int64)
    alone = replace(latency, layers=())
    assert alone.of(nothing) == pytest.approx(latency.scale * fixed[0].ms, rel=1e-2)
    assert 0 < alone.of(nothing) < alone.of(full_widths(graph)) < bench.teacher_ms


def test_what_lies_before_a_product_follows_the_groups_that_it_reads(
    network: nn.Module, bench: Bench
) -> None:
    graph = trace(network, images(1, side=32))
    latency = bench.latency(graph, Budget(0.5, "latency"))
    stem = next(place for place, group in enumerate(graph.groups) if group.name == "stem.0")
    moving = [part for part in latency.rest if part.factors]
    # The sum before the depthwise layer, and the mean before the linear one: all have the width of the stem.
    assert {group for part in moving for factor in part.factors for group, _ in factor.times} == {stem}


def test_nodes_beside_products_are_split_into_the_runtimes_own_and_what_moves() -> None:
    def node(op: str, ms: float) -> NodeTime:
        return NodeTime(op, op, (1,), (ms,))

    nodes = NodeTimes((node("Conv", 6.0), node("Add", 3.0), node("Flatten", 1.0), node("Gemm", 2.0)), (13.0,))
    lies = Between((1,), frozenset())
    assert _beside(nodes, 12.4, lies) == Beside(pytest.approx(2.4 / 8), 2 / 8, (1,))
    assert _beside(nodes, 10.0, lies) == Beside(2 / 8, 2 / 8, (1,))
    assert _beside(NodeTimes((node("Add", 1.0),), (1.0,)), 1.0, lies) == Beside(0.0, 0.0, (1,))


def test_an_activation_that_is_timed_with_its_product_is_not_counted_again() -> None:
    nodes = NodeTimes(
        tuple(
            NodeTime(name, name, (1,), (ms,))
            for name, ms in (("Conv", 4.0), ("QLinearSigmoid", 4.0), ("Add", 2.0))
        ),
        (10.0,),
    )
    assert _beside(nodes, 10.0, Between((1,), frozenset(["QLinearSigmoid"]))) == Beside(2 / 8, 0.0, (1,))


def test_a_layer_that_cannot_be_timed_counts_as_a_product_for_what_lies_beside_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(16, 32, 2, stride=2), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Conv2d(32, 4, 1)).eval()
    bench = Bench(network, images(1, side=32), tmp_path, ExportRecipe(), ProfileRecipe(samples=20))
    told: list[Beside] = []
    monkeypatch.setattr(
        "compressor.run.measured_widths.bench._beside",
        lambda *given: told.append(_beside(*given)) or told[-1],
    )
    graph = trace(network, images(1, side=32))

    latency = bench.latency(graph, Budget(0.5, "latency"))

    beside = told[0].fixed + told[0].moving  # no node of the file lies between, so all of it is fixed
    fixed = sum(part.ms for part in latency.rest if not part.factors) * latency.scale
    assert fixed / bench.teacher_ms == pytest.approx(beside / (1 + beside), rel=1e-6)


def test_a_name_that_is_used_again_is_timed_anew(network: nn.Module, int8: Bench) -> None:
    small = nn.Sequential(nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    first = int8.timed([int8.written(network, "again")])[0].latency_ms
    second = int8.timed([int8.written(small, "again")])[0].latency_ms
    assert second < first / 2


def test_assistants_stand_within_what_the_blocks_of_the_student_promise(
    network: nn.Module, bench: Bench
) -> None:
    """Of a student that was measured to be much faster than promised."""
    graph = trace(network, images(1, side=32))
    scores = score(network, graph, Scoring("l2"))
    budget = Budget(0.2, "latency")
    costs = measured_costs(graph, budget, bench)
    student = allocate(graph, scores, budget, measured=costs)
    asked_more = replace(budget, remove=0.9)
    path = stages(graph, scores, asked_more, 3, student=student, measured=costs)
    removed = [stage.plan.removed("latency") for stage in path]
    assert len(path) == 4
    assert removed == sorted(removed)


def test_a_fit_builds_measures_and_says_what_a_share_of_macs_would_have_done(
    network: nn.Module, bench: Bench
) -> None:
    graph = trace(network, images(1, side=32))
    scores = score(network, graph, Scoring("l2"))
    budget = Budget(0.4, "latency", max_params=60_000)
    costs = measured_costs(graph, budget, bench)

    fitted = fit(network, graph, scores, budget, bench, costs)

    assert 1 <= len(fitted.rounds) <= 3
    assert fitted.allowed["latency"] == pytest.approx(0.6 * bench.teacher_ms)
    assert fitted.allocation.plan.costs["params"][1] <= 60_000
    assert fitted.allocation.plan.removed("latency") == pytest.approx(
        1 - fitted.chosen.measured["latency"] / bench.teacher_ms, abs=1e-3
    )
    assert fitted.control is not None
    chosen, plain = (each.allocation.plan.removed("macs") for each in (fitted.chosen, fitted.control))
    assert plain >= chosen - 0.25  # of the last round, which another may have beaten
    told = fitted.to_dict()
    assert told["rounds"][told["chosen"]]["measured"] == dict(fitted.chosen.measured)


def test_a_limit_on_bytes_is_met_by_the_real_file(network: nn.Module, bench: Bench) -> None:
    graph = trace(network, images(1, side=32))
    scores = score(network, graph, Scoring("l2"))
    most = bench.file.stat().st_size // 2
    budget = Budget(0.0, max_bytes=most)

    fitted = fit(network, graph, scores, budget, bench, measured_costs(graph, budget, bench))

    assert fitted.chosen.measured["bytes"] <= most
    assert fitted.allocation.missed is None
    assert fitted.control is None


def test_several_limits_hold_at_once(network: nn.Module) -> None:
    graph = trace(network, images(1, side=32))
    scores = score(network, graph, Scoring("l2"))
    costs = costs_of(graph)
    full = {name: cost.of(full_widths(graph)) for name, cost in costs.items()}
    budget = Budget(0.3, "channels", max_macs=full["macs"] // 2, max_params=int(full["params"] * 0.55))

    plan = allocate(graph, scores, budget).plan

    assert plan.costs["macs"][1] <= full["macs"] // 2
    assert plan.costs["params"][1] <= int(full["params"] * 0.55)
    assert plan.removed("channels") >= 0.3


def test_latency_that_was_not_measured_is_refused_with_the_way_out(network: nn.Module) -> None:
    graph = trace(network, images(1, side=32))
    scores = score(network, graph, Scoring("l2"))
    with pytest.raises(CompressError, match="it has not been measured"):
        allocate(graph, scores, Budget(0.5, "latency"))


def test_a_limit_below_what_always_stays_says_how_much_that_is(network: nn.Module) -> None:
    graph = trace(network, images(1, side=32))
    scores = score(network, graph, Scoring("l2"))
    with pytest.raises(
        UsageError, match=r"cannot meet --max-params 10: at least [\d,]+ parameters must stay"
    ) as caught:
        allocate(graph, scores, Budget(0.0, max_params=10))
    enough = re.search(r"use --max-params (\d+) or more", str(caught.value.hint))
    assert enough
    allocate(graph, scores, Budget(0.0, max_params=int(enough[1])))


@pytest.mark.parametrize("limit", ["max_macs", "max_params", "max_bytes", "max_latency_ms"])
def test_limits_of_nothing_or_less_are_refused(limit: str) -> None:
    with pytest.raises(UsageError, match=f"budget.{limit} is"):
        replace(Budget(), **{limit: 0})


def test_what_may_be_chosen_contains_the_least_and_all(network: nn.Module) -> None:
    graph = trace(network, images(1, side=32))
    choices = choices_for(graph, Budget(0.5, granule=8))
    for group, own in zip(graph.groups, choices.of, strict=True):
        assert own[-1] == group.units
        assert (np.diff(own) > 0).all()


def test_only_blocks_of_allowed_widths_are_measured(network: nn.Module, bench: Bench) -> None:
    graph = trace(network, images(1, side=32))
    macs = [layer.macs for layer in count_file(bench.file).layers]
    found = patterns(graph, blocks_of(bench.file), macs)
    kept = wanted_blocks(found, choices_for(graph, Budget(0.5, keep=("inside",))))
    assert {block.out for block in kept if block.inner == 64 and block.kernel} == {96}
