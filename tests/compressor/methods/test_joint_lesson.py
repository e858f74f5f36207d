"""Networks that share weights: what each reads and gives, what its masks are moved by, and that they nest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressor.data.split import Data
from compressor.methods.cascade import joint_lesson
from compressor.methods.cascade.joint_lesson import Together, own_tensors
from compressor.methods.cascade.masks import Derivatives, Moving, Units
from compressor.methods.cascade.shared_weights import Flat, Part
from compressor.pruning.cutting import cut
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.plan import Plan
from compressor.recipe.distilling import CascadeRecipe, Distilling
from compressor.training import Arithmetic
from compressor.training.losses import cross_entropy, kd

from .stripes import CPU, SCHEDULE, task_for

FP32 = Arithmetic.on(CPU, "fp32")


class Branched(nn.Module):
    """A residual stream, a depthwise filter in the middle, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.wide, self.wide_norm = nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12)
        self.depth = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.narrow = nn.Conv2d(12, 8, 1)
        self.side = nn.Conv2d(8, 5, 1)
        self.head = nn.Linear(13, 2)
        self.gates: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        inner = self.depth(self.wide_norm(self.wide(self._gated("stem", x))).relu()).relu()
        x = x + self.narrow(self._gated("wide", inner))
        both = torch.cat([self._gated("stem", x), self._gated("side", self.side(self._gated("stem", x)))], 1)
        return self.head(both.mean((2, 3)))

    def _gated(self, name: str, x: Tensor) -> Tensor:
        return x * self.gates[name].view(1, -1, 1, 1) if name in self.gates else x


def test_the_derivative_by_a_mask_is_that_of_a_gate_in_front_of_everybody_who_reads_the_channel() -> None:
    torch.manual_seed(3)
    network = Branched().double()
    images, labels = torch.randn(6, 1, 5, 5, dtype=torch.float64), torch.arange(6) % 2
    graph = trace(network.float(), images[:1].float())
    network = network.double()
    network.gates = {
        name: torch.ones(size, dtype=torch.float64, requires_grad=True)
        for name, size in (("stem", 8), ("wide", 12), ("side", 5))
    }
    cross_entropy(network(images), labels).backward()
    units = Units(graph, dict(network.named_parameters()))
    found = Derivatives(units, network, Plan({}), "torch")()
    assert {group.name for group in graph.groups} == {"stem", "wide", "side"}
    for name, gate in network.gates.items():
        start = units.starts[name]
        assert gate.grad is not None
        assert gate.grad.abs().max() > 1e-4
        # float64; a gate and the weights behind it are summed in another order.
        torch.testing.assert_close(found[start : start + len(gate)], gate.grad, rtol=1e-9, atol=1e-12)


def test_what_a_cut_network_does_not_have_gets_no_derivative() -> None:
    torch.manual_seed(3)
    network = Branched()
    graph = trace(network, torch.zeros(1, 1, 5, 5))
    units = Units(graph, dict(network.named_parameters()))
    row = np.ones(units.count, dtype=np.bool_)
    gone = [units.starts["stem"] + 2, units.starts["wide"] + 7, units.starts["side"]]
    row[gone] = False
    plan = units.plan(row)
    smaller = cut(network, plan)
    cross_entropy(smaller(torch.randn(4, 1, 5, 5)), torch.arange(4) % 2).backward()
    found = Derivatives(units, smaller, plan, "torch")()
    assert (found[gone] == 0).all()
    assert (found != 0).sum() == units.count - 3


def test_a_part_reads_its_weights_and_gives_its_gradients() -> None:
    torch.manual_seed(3)
    network = Branched()
    graph = trace(network, torch.zeros(1, 1, 5, 5))
    units = Units(graph, dict(network.named_parameters()))
    tensors = {name: p.detach() for name, p in network.named_parameters()}
    own = own_tensors(network, graph)
    assert own == {f"{m}.{p}" for m in ("stem", "norm", "wide_norm", "head") for p in ("weight", "bias")}
    flat = Flat(tensors, frozenset(tensors) - own, ["a", "b"], CPU)
    row = np.ones(units.count, dtype=np.bool_)
    row[[0, units.starts["wide"], units.starts["side"] + 4]] = False
    plan = units.plan(row)
    expected = cut(network, plan)
    smaller = cut(network, plan)
    for parameter in smaller.parameters():
        parameter.data.zero_()
    part = Part(flat, "b", smaller, plan)
    for (name, mine), theirs in zip(smaller.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
        assert mine.ndim != 4 or mine.is_contiguous(memory_format=torch.channels_last)
    images, labels = torch.randn(4, 1, 5, 5), torch.arange(4) % 2
    for one in (smaller, expected):
        cross_entropy(one(images), labels).backward()
    part.give()
    flat.show_gradients()
    alone = {name: p.grad for name, p in expected.named_parameters()}
    for name, tensor in tensors.items():
        start = flat.place("b", name)
        gradient = Flat(tensors, frozenset(tensors) - own, ["a", "b"], CPU)
        gradient.values[:] = flat.gradients
        whole = gradient.tensors("b")[name]
        for axis, kept in plan.slices.get(name, {}).items():
            gone = np.setdiff1d(np.arange(tensor.shape[axis]), kept)
            assert (whole.index_select(axis, torch.from_numpy(gone)) == 0).all()
            whole = whole.index_select(axis, torch.tensor(kept))
        torch.testing.assert_close(whole, alone[name], rtol=1e-4, atol=1e-6)
        assert start >= 0
    with torch.no_grad():
        flat.values += 1
    part.read()
    for (name, mine), theirs in zip(smaller.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs + 1, msg=name)
    untouched = flat.tensors("a")
    assert torch.equal(untouched["norm.weight"], tensors["norm.weight"] + 1)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels are chosen anew after every step, and scores go far."""
    monkeypatch.setattr(joint_lesson, "MASKS_EVERY", 1)
    monkeypatch.setattr(joint_lesson, "SCORE_TRAVEL", 20.0)


def lesson_for(teacher: nn.Module, data: Data, tmp_path: Path, **asked: object) -> Together:
    task = task_for(teacher, data, tmp_path, Distilling(schedule=SCHEDULE, assistants=2, **asked))  # type: ignore[arg-type]
    return Together(
        task.teacher, task.guide, task.graph, task.scores, task.budget, task.path, task.distilling, data, FP32
    )


def stepped(lesson: Together, data: Data, steps: int, of: int) -> None:
    optimizer = torch.optim.SGD([p for _, p in (*lesson.decayed, *lesson.kept)], lr=0.05)
    batch = next(iter(data.train.batches(32)))
    for network in lesson.networks.values():
        network.train()
    for step in range(1, steps + 1):
        lesson.learn(batch.images, batch.labels, batch.index, lambda loss: loss.backward())
        lesson.before_step()
        optimizer.step()
        lesson.after_step(step, of)


def test_each_network_is_told_by_the_next_larger_one_and_the_whole_one_by_the_guide(
    teacher: nn.Module, data: Data, tmp_path: Path
) -> None:
    lesson = lesson_for(teacher, data, tmp_path)
    assert list(lesson.networks) == ["student", "assistant-2", "assistant-1", "whole"]
    batch = next(iter(data.train.batches(32)))
    for network in lesson.networks.values():
        network.train()
    told = teacher.eval()(batch.images)
    expected = torch.zeros(())
    for network in reversed(lesson.networks.values()):
        said = network(batch.images)
        soft = kd(said, told.detach(), temperature=SCHEDULE.temperature)
        hard = cross_entropy(said, batch.labels)
        expected = expected + 0.9 * soft + 0.1 * hard
        told = said
    found = lesson.learn(batch.images, batch.labels, batch.index, lambda loss: loss.backward())
    torch.testing.assert_close(found, expected.detach() / 4, rtol=1e-5, atol=1e-6)


def test_masks_move_by_the_gradients_of_the_next_larger_network(
    teacher: nn.Module, data: Data, tmp_path: Path
) -> None:
    lesson = lesson_for(teacher, data, tmp_path)
    batch = next(iter(data.train.batches(32)))
    for network in lesson.networks.values():
        network.train()
    before = [m.moving.row.clone() for m in lesson.members if m.moving]
    lesson.learn(batch.images, batch.labels, batch.index, lambda loss: loss.backward())
    larger = lesson.members[1]
    derivative = Derivatives(lesson._units, larger.network, larger.plan, "torch")()
    lesson.before_step()
    lesson.after_step(1, 10)
    student = lesson.members[0].moving
    assert student is not None
    moved = student.row - before[0]
    there = torch.from_numpy(larger.kept)
    assert (moved[~there] == 0).all()
    # The first step is the derivative itself, on one scale for all.
    scaled = derivative / derivative.square().mean().sqrt()
    torch.testing.assert_close(moved / moved.abs().max(), -scaled / scaled.abs().max())


@pytest.mark.usefixtures("hasty")
def test_masks_nest_stay_in_the_budget_and_channels_come_back(
    teacher: nn.Module, data: Data, tmp_path: Path
) -> None:
    lesson = lesson_for(teacher, data, tmp_path)
    seen = [lesson.members[0].kept]
    optimizer = torch.optim.SGD([p for _, p in (*lesson.decayed, *lesson.kept)], lr=0.05)
    for network in lesson.networks.values():
        network.train()
    for step, batch in enumerate(list(data.train.batches(16)) * 3, 1):
        lesson.learn(batch.images, batch.labels, batch.index, lambda loss: loss.backward())
        lesson.before_step()
        optimizer.step()
        lesson.after_step(step, 24)
        for smaller, larger in zip(lesson.members, lesson.members[1:], strict=False):
            assert not (smaller.kept & ~larger.kept).any()
        seen.append(lesson.members[0].kept)
    masks = np.stack(seen).astype(int)
    went, came = (np.diff(masks, axis=0) == sign for sign in (-1, 1))
    assert went.any()
    assert came.any()
    fixed = masks[-5:]
    assert (fixed == fixed[0]).all(), "masks are final for the last part"


def test_running_statistics_stay_where_a_channel_was_while_it_is_away(
    teacher: nn.Module, data: Data, tmp_path: Path
) -> None:
    lesson = lesson_for(teacher, data, tmp_path)
    stepped(lesson, data, 2, 10)
    member = lesson.members[0]
    whole = lesson.at_full_width(member)
    assert isinstance(whole[1], nn.BatchNorm2d)
    mean = member.network.get_submodule("1").running_mean
    kept = list(member.plan.slices["1.weight"][0])
    assert torch.equal(whole[1].running_mean[kept], mean)
    gone = np.setdiff1d(np.arange(16), kept)
    assert torch.equal(whole[1].running_mean[gone], teacher[1].running_mean[gone])
    smaller = cut(whole, member.plan).eval()
    images = data.test.images[:8]
    torch.testing.assert_close(smaller(images), member.network.eval()(images))


def test_a_derivative_that_always_says_the_same_moves_a_score_by_the_distance() -> None:
    moving = Moving(np.zeros(3), CPU)
    derivative = torch.tensor([2.0, -2.0, 0.02], dtype=torch.float64)
    for _ in range(200):
        moving.move(derivative, 0.01)
    expected = [-1.22, 1.22, -0.0122]
    # The momentum needs some steps to begin: 9 of them are missing at the end.
    assert (moving.row / 2).tolist() == pytest.approx(expected, rel=0.06)


def test_places_are_shares_and_equals_share_one(teacher: nn.Module, data: Data, tmp_path: Path) -> None:
    task = task_for(teacher, data, tmp_path, Distilling(schedule=SCHEDULE))
    units = Units(task.graph, dict(teacher.named_parameters()))
    places = units.places(units.scores(np.array([5.0, 1.0, 1.0, 9.0] * 8)))
    assert places[:4].tolist() == [0.625, 0.25, 0.25, 0.875]


def test_a_batch_that_is_broken_off_leaves_no_gradients(
    teacher: nn.Module, data: Data, tmp_path: Path
) -> None:
    batch = next(iter(data.train.batches(32)))
    gradients = []
    for broken_off in (False, True):
        lesson = lesson_for(teacher, data, tmp_path)
        for network in lesson.networks.values():
            network.train()
        if broken_off:
            lesson.learn(batch.images, batch.labels, batch.index, lambda loss: loss.backward())
        lesson.begin()
        lesson.learn(batch.images, batch.labels, batch.index, lambda loss: loss.backward())
        lesson.before_step()
        gradients.append(lesson._flat.gradients.clone())
    assert torch.equal(*gradients)


def test_a_derivative_that_overflowed_moves_nothing() -> None:
    moving = Moving(np.zeros(3), CPU)
    moving.move(torch.tensor([1.0, torch.inf, torch.nan], dtype=torch.float64), 0.1)
    assert moving.row.isfinite().all()
    assert moving.row[1:].tolist() == [0, 0]


def test_what_decides_the_channels_is_part_of_what_the_training_is(
    teacher: nn.Module, data: Data, tmp_path: Path
) -> None:
    usual = lesson_for(teacher, data, tmp_path).identity()
    other = lesson_for(teacher, data, tmp_path, cascade=CascadeRecipe(0.5)).identity()
    assert {key for key in usual if usual[key] != other[key]} == {"distil.cascade"}
