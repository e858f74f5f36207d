"""The networks between teacher and student: evenly spaced, nested, each taught by the one before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compressor.budget.request import Budget
from compressor.cascade import descend, stages
from compressor.cutting import cut
from compressor.data.split import WHOLE, Bad, Batch, Data, Part, batch_indices
from compressor.distill import Schedule
from compressor.graph.trace import trace
from compressor.saliency.score import score
from compressor.student import same_bits


@dataclass(frozen=True)
class Stripes:
    """Vertical or horizontal stripes with noise: two classes that a small network tells apart."""

    images: Tensor
    labels: Tensor
    fixed: bool = True
    labelled: bool = True
    bad: tuple[Bad, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, size: int, *, shuffle: int | None = None, start: int = 0, part: Part = WHOLE
    ) -> Iterator[Batch]:
        for index in batch_indices(len(self), size, shuffle, start, part):
            yield Batch(self.images[index], self.labels[index], index)


def stripes(count: int, seed: int) -> Stripes:
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    line = torch.tensor([1.0, -1.0]).repeat(4)
    both = torch.stack([line.expand(8, 8), line[:, None].expand(8, 8)])
    images = both[labels][:, None] + 0.3 * torch.randn(count, 1, 8, 8, generator=random)
    return Stripes(images, labels)


@pytest.fixture
def data() -> Data:
    return Data("stripes", ("vertical", "horizontal"), (1, 8, 8), stripes(128, 0), stripes(64, 1))


@pytest.fixture
def teacher() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    ).eval()


def test_assistants_are_evenly_spaced_and_contain_the_student(teacher: nn.Module) -> None:
    graph = trace(teacher, torch.zeros(1, 1, 8, 8))
    path = stages(graph, score(teacher, graph, "l2"), Budget(0.6, granule=1), assistants=2)
    assert [stage.name for stage in path] == ["assistant-1", "assistant-2", "student"]
    for stage, share in zip(path, (0.2, 0.4, 0.6), strict=True):
        assert share - 0.01 <= stage.plan.removed("macs") < share + 0.1
    for larger, smaller in pairwise(path):
        for tensor, axes in larger.plan.slices.items():
            for axis, kept in axes.items():
                assert set(smaller.plan.slices[tensor][axis]) <= set(kept)


def test_each_network_is_cut_from_the_one_that_teaches_it(
    teacher: nn.Module, data: Data, tmp_path: Path
) -> None:
    graph = trace(teacher, torch.zeros(1, 1, 8, 8))
    path = stages(graph, score(teacher, graph, "l2"), Budget(0.6, granule=1), assistants=1)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    seen: list[str] = []
    trainings = descend(
        teacher,
        path,
        data,
        lambda name: Schedule(epochs=3, batch=32, warmup_epochs=0, learning_rate=0.1, precision="fp32"),
        seed=0,
        device=torch.device("cpu"),
        checkpoints=lambda name: tmp_path / name,
        progress=lambda name, now: seen.append(name),
    )
    assert [(training.stage.name, training.teacher) for training in trainings] == [
        ("assistant-1", "teacher"),
        ("student", "assistant-1"),
    ]
    assert list(dict.fromkeys(seen)) == ["assistant-1", "student"]
    student = trainings[-1].trained.network
    shapes = {name: tensor.shape for name, tensor in student.state_dict().items()}
    assert shapes == {name: t.shape for name, t in cut(teacher, path[-1].plan).state_dict().items()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_a_broken_descent_goes_on_and_ends_with_the_same_student(
    teacher: nn.Module, data: Data, tmp_path: Path
) -> None:
    graph = trace(teacher, torch.zeros(1, 1, 8, 8))
    path = stages(graph, score(teacher, graph, "l2"), Budget(0.6, granule=1), assistants=1)
    schedule = Schedule(epochs=2, batch=32, warmup_epochs=0, precision="fp32")

    def run(folder: Path, stop_in: str = "") -> nn.Module:
        def progress(name: str, now: object) -> None:
            if name == stop_in and getattr(now, "epoch", 0) == 2:
                raise KeyboardInterrupt

        cpu = torch.device("cpu")
        done = descend(
            teacher,
            path,
            data,
            lambda name: schedule,
            seed=0,
            device=cpu,
            checkpoints=folder.joinpath,
            progress=progress,
        )
        return done[-1].trained.network

    unbroken = run(tmp_path / "a")
    for stop_in in ("assistant-1", "student"):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / stop_in, stop_in)
        assert same_bits(run(tmp_path / stop_in), unbroken)
