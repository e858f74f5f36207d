"""The whole program on one page: from a trained network to a smaller one that is proven to be it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import compressor
from compressor.data import Data
from compressor.recipe import ProfileRecipe

CLASSES = 4


class Net(nn.Module):
    """A stem, a residual block, a classifier: three groups of channels, one of them held by a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.outer = nn.Sequential(nn.Conv2d(32, 16, 3, padding=1), nn.BatchNorm2d(16))
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.outer(self.inner(x)))
        return self.head(x.mean((2, 3)))


def untrained() -> nn.Module:
    torch.manual_seed(0)
    return Net()


def colours(samples: int, seed: int) -> TensorDataset:
    """Four colours in noise."""
    labels = torch.arange(samples) % CLASSES
    shades = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [-1, -1, -1]])[labels, :, None, None]
    noise = torch.randn(samples, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(shades + noise, labels)


@torch.no_grad()
def right(network: nn.Module, data: Data) -> float:
    (batch,) = data.test.batches(len(data.test))
    return float((network(batch.images).argmax(1) == batch.labels).float().mean())


def test_a_teacher_becomes_a_smaller_student_that_is_proven_exported_and_measured(tmp_path: Path) -> None:
    data = compressor.data_from(colours(256, 1), colours(64, 2), classes=CLASSES)
    images = next(data.test.batches(8)).images
    schedule = compressor.Schedule(epochs=3, batch=32)

    teacher = compressor.distil(untrained(), data, schedule=schedule)  # without a teacher: by the labels
    assert right(teacher, data) > 0.9

    graph = compressor.trace(teacher, images[:1])
    assert [group.units for group in graph.groups] == [16, 32]  # stem and outer meet in a sum: one group

    scores = compressor.score(teacher, graph, "taylor", data.train.batches(64, shuffle=0))
    assert all((scores.of(group.name) > 0).any() for group in graph.groups)

    plan = compressor.plan(graph, scores, remove=0.5, granule=1)
    assert 0.49 <= plan.removed("macs") < 0.53

    cut = compressor.cut(teacher, plan)
    assert cut.stem[0].weight.shape[0] == plan.widths[graph.groups[0].name][1]
    assert teacher.stem[0].weight.shape[0] == 16  # never modified

    compressor.check(teacher, cut, plan, images)
    cut.head.bias.data[0] += 1e-6
    with pytest.raises(compressor.CompressError, match="cut equals silenced teacher"):
        compressor.check(teacher, cut, plan, images)  # it would have noticed
    cut.head.bias.data[0] -= 1e-6

    student = compressor.distil(cut, data, teacher=teacher, schedule=schedule)
    assert right(student, data) > 0.9

    artifact = compressor.export(student, images, tmp_path / "student.onnx")
    assert artifact.bytes == (tmp_path / "student.onnx").stat().st_size

    profile = compressor.profile(teacher, student, images[:1], ProfileRecipe(samples=5))
    counted = profile.counts["student"].macs / profile.counts["teacher"].macs
    np.testing.assert_allclose(1 - counted, plan.removed("macs"))  # counted, not computed from the plan

    compressor.save(student, tmp_path / "student", plan=plan, model="tests.test_tiny:untrained", image=images)
    assert torch.equal(compressor.load(tmp_path / "student", trust=True)(images), student(images))
