"""What criteria look at, batch by batch: repeatable however the data is split, and refused where it cannot be."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.data.split import Batch
from compressor.errors import CompressError, UsageError
from compressor.pruning.graph.trace import trace
from compressor.pruning.scoring.criteria import CRITERIA
from compressor.pruning.scoring.score import score
from compressor.recipe.saliency import Scoring
from tests.compressor.networks import images, with_statistics


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU()]
    return with_statistics(nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 5))).double()


def data(size: int, parts: int = 1) -> list[Batch]:
    pixels = images(size).double()
    labels = torch.arange(size) % 5
    cut = [each.split(size // parts) for each in (pixels, labels, torch.arange(size))]
    return [Batch(*each) for each in zip(*cut, strict=True)]


@pytest.mark.parametrize("criterion", ["gate", "fisher", "hrank"])
def test_one_large_batch_and_several_small_ones_say_the_same(criterion: str) -> None:
    teacher = network()
    graph = trace(teacher, images(1).double())
    whole, parts, uneven = (
        score(teacher, graph, Scoring(criterion, normalise="none"), batches)
        for batches in (data(32), data(32, 4), split_unevenly(32, 20))
    )
    for name in whole.by_group:
        np.testing.assert_allclose(parts.of(name), whole.of(name), rtol=1e-9)
        np.testing.assert_allclose(uneven.of(name), whole.of(name), rtol=1e-9)


def split_unevenly(size: int, first: int) -> list[Batch]:
    (batch,) = data(size)
    cut = [each.split([first, size - first]) for each in (batch.images, batch.labels, batch.index)]
    return [Batch(*each) for each in zip(*cut, strict=True)]


def test_taylor_takes_the_size_batch_by_batch() -> None:
    """Over all the data the gradient of a trained network is next to nothing."""
    teacher = network()
    graph = trace(teacher, images(1).double())
    whole = score(teacher, graph, Scoring("taylor", normalise="none"), data(32)).of("0")
    parts = score(teacher, graph, Scoring("taylor", normalise="none"), data(32, 8)).of("0")
    assert (parts >= whole - 1e-12).all()
    assert (parts > 1.01 * whole).any()


def test_taylor_is_the_derivative_of_the_loss_by_a_gate_on_every_slot() -> None:
    """Scale one slot of one unit by ``1 + t``: the loss changes by ``sum w * dL/dw`` per unit of ``t``."""
    torch.manual_seed(0)
    teacher = with_statistics(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5))
    ).double()
    batches = data(8, 2)
    found = score(teacher, trace(teacher, images(1).double()), Scoring("taylor", normalise="none"), batches)
    conv, norm, head = teacher[0], teacher[1], teacher[4]
    expected = torch.zeros(6, dtype=torch.float64)
    for batch in batches:
        w, b, s, h = gates = [torch.ones(6, dtype=torch.float64, requires_grad=True) for _ in range(4)]
        columns = torch.ones(216, dtype=torch.float64, requires_grad=True)
        x = F.conv2d(batch.images, conv.weight * w[:, None, None, None], conv.bias * b)
        x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight * s, norm.bias * h, eps=norm.eps)
        loss = F.cross_entropy(F.linear(x.relu().flatten(1), head.weight * columns, head.bias), batch.labels)
        *own, by_column = torch.autograd.grad(loss, [*gates, columns])
        # The size is taken for each index of an axis, and a unit has 36 columns.
        expected += (sum(each.abs() for each in own) + by_column.abs().view(6, 36).sum(1)) / 2
    np.testing.assert_allclose(found.of("0"), expected.detach().numpy(), rtol=1e-10)


def test_the_cascade_adds_what_the_teacher_says_to_the_loss() -> None:
    student, teacher = network(), copy.deepcopy(network())
    with torch.no_grad():
        teacher[6].weight.mul_(3)
    graph = trace(student, images(1).double())
    (batch,) = data(8)
    found = score(student, graph, Scoring("gate-cascade", normalise="none"), [batch], teacher=teacher)
    mask = torch.ones(6, 1, 1, dtype=torch.float64, requires_grad=True)
    answer = student[1:](student[0](batch.images) * mask)
    told, said = ((each / 15).log_softmax(1) for each in (teacher(batch.images), answer))
    distance = F.kl_div(said, told, reduction="batchmean", log_target=True) * 15**2
    loss = F.cross_entropy(answer, batch.labels) + 0.4 * distance
    expected = -torch.autograd.grad(loss, mask)[0].flatten()
    np.testing.assert_allclose(found.of("0"), expected.numpy(), rtol=1e-8)
    alone = score(student, graph, Scoring("gate-cascade", normalise="none"), [batch])
    plain = score(student, graph, Scoring("gate", normalise="none"), [batch], teacher=teacher)
    assert np.array_equal(alone.of("0"), plain.of("0"))
    assert not np.allclose(alone.of("0"), found.of("0"), rtol=1e-3)


@pytest.mark.parametrize("name", ["taylor", "gate", "fisher"])
def test_running_statistics_and_modes_do_not_matter(name: str) -> None:
    """Norms are in inference mode, whatever mode the network is in, and stay as they are."""
    teacher = network()
    graph = trace(teacher, images(1).double())
    expected = score(teacher, graph, name, data(8)).of("0")
    before = copy.deepcopy(teacher.state_dict())
    assert np.array_equal(score(teacher.train(), graph, name, data(8)).of("0"), expected)
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())


def test_slots_are_combined_and_groups_put_on_one_scale() -> None:
    teacher = network()
    graph = trace(teacher, images(1).double())

    def l2(**asked: str) -> np.ndarray:
        return score(teacher, graph, Scoring("l2", **{"normalise": "none", **asked})).of("0")

    slots = [
        teacher[0].weight.square().sum((1, 2, 3)),
        teacher[1].weight.square(),
        teacher[3].weight.square().sum((0, 2, 3)),
    ]
    rows = torch.stack(slots).detach().numpy()
    np.testing.assert_allclose(l2(combine="sum"), rows.sum(0), rtol=1e-12)
    np.testing.assert_allclose(l2(combine="mean"), rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(l2(combine="max"), rows.max(0), rtol=1e-12)
    np.testing.assert_allclose(l2(combine="first"), rows[0], rtol=1e-12)
    total = rows.sum(0)
    np.testing.assert_allclose(l2(normalise="mean"), total / total.mean(), rtol=1e-12)
    np.testing.assert_allclose(l2(normalise="max"), total / total.max(), rtol=1e-12)
    # One channel less: 3 × 9 weights at 36 places, and 9 weights for each of 4 channels at 16 places.
    np.testing.assert_allclose(l2(normalise="per-macs"), total / (3 * 9 * 36 + 9 * 4 * 16), rtol=1e-12)


def test_of_scores_with_signs_the_sizes_are_averaged() -> None:
    teacher = network()
    graph = trace(teacher, images(1).double())
    raw = score(teacher, graph, Scoring("gate", normalise="none"), data(8)).of("0")
    assert raw.min() < 0 < raw.max()
    scaled = score(teacher, graph, "gate", data(8)).of("0")
    np.testing.assert_allclose(scaled, raw / np.abs(raw).mean(), rtol=1e-12)


def test_a_criterion_of_ones_own_is_a_function_or_a_whole_criterion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_criteria.py").write_text(
        "from compressor.pruning.scoring.criteria import Criterion\n"
        "def spread(seen):\n"
        "    return seen.value.flatten(1).std(1) if seen.produces and seen.axis == 0 else None\n"
        "whole = Criterion(lambda seen: seen.measured['abs_wg'], ('abs_wg',), combine='max')\n"
        "def wrong(seen):\n"
        "    return seen.value.sum()\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    teacher = network()
    graph = trace(teacher, images(1).double())
    found = score(teacher, graph, Scoring("own_criteria:spread", normalise="none"))
    expected = teacher[0].weight.detach().flatten(1).std(1)
    np.testing.assert_allclose(found.of("0"), expected.numpy(), rtol=1e-12)
    assert score(teacher, graph, "own_criteria:whole", data(8)).combine == "max"
    with pytest.raises(CompressError, match=r"`own_criteria:wrong` gives \(\) for axis 0 of `0.weight`"):
        score(teacher, graph, "own_criteria:wrong")
    with pytest.raises(UsageError, match="is a int, expected a function or class"):
        score(teacher, graph, "own_criteria:number")


def test_labels_outside_the_classes_are_refused_before_the_pass() -> None:
    teacher = network()
    graph = trace(teacher, images(1).double())
    good, bad = data(8, 2)
    bad.labels[1] = 5
    with pytest.raises(UsageError, match="label 5 in batch 2, but the network has 5 outputs") as caught:
        score(teacher, graph, "taylor", [good, bad])
    assert caught.value.hint is not None
    assert "from 0 to 4" in caught.value.hint


def test_a_gradient_that_is_not_finite_names_batch_and_tensor() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(4, 6, bias=False), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.first(x).abs().sqrt())  # the root of nothing has no slope

    teacher = Root()
    graph = trace(teacher, torch.ones(1, 4))
    batch = Batch(torch.zeros(2, 4), torch.tensor([0, 1]), torch.arange(2))
    with pytest.raises(CompressError, match=r"the gradient of `first.weight` is not finite in batch 1"):
        score(teacher, graph, "taylor", [batch])
    with pytest.raises(CompressError, match=r"the gradient of `first.weight` is not finite in batch 1"):
        score(teacher, graph, "gate", [batch])


def test_a_network_with_several_outputs_wants_a_loss_and_takes_one() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = self.trunk(x).relu()
            return {"class": self.one(x), "box": self.two(x)}

    torch.manual_seed(0)
    teacher = Two()
    graph = trace(teacher, torch.ones(1, 4))
    batch = Batch(torch.randn(4, 4), torch.arange(4) % 3, torch.arange(4))
    with pytest.raises(UsageError, match="the network returns a dictionary of class, box, expected logits"):
        score(teacher, graph, "taylor", [batch])

    def loss(answer: dict[str, Tensor], batch: Batch) -> Tensor:
        return F.cross_entropy(answer["class"], batch.labels) + answer["box"].square().mean()

    assert (score(teacher, graph, "taylor", [batch], loss=loss).of("trunk") > 0).any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"combine": "median"}, "unknown combination of slots `median`"),
        ({"normalise": "macs"}, "unknown normalisation `macs`"),
    ],
)
def test_a_wrong_request_is_refused_when_it_is_made(wrong: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Scoring("l2", **wrong)


def test_every_criterion_of_the_table_gives_a_number_for_every_unit() -> None:
    teacher = network()
    graph = trace(teacher, images(1).double())
    for name in CRITERIA.keys() - {"bn-scale"}:  # it sees the one group that has a norm
        scores = score(teacher, graph, name, data(8))
        assert scores.unscored == ()
        assert all(scores.of(group.name).shape == (group.units,) for group in graph.groups)
