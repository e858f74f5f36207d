"""Two classes that a small network tells apart, and what a method is given to teach it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from compressor.data.split import WHOLE, Bad, Batch, Data, Part, batch_indices
from compressor.methods import Task, stages
from compressor.pruning.graph.trace import trace
from compressor.pruning.scoring.score import score
from compressor.recipe.budget import Budget
from compressor.recipe.distilling import Distilling
from compressor.training import Guide, Progress, Schedule

SCHEDULE = Schedule(epochs=4, batch=32, warmup_epochs=0, learning_rate=0.05, precision="fp32", test_every=1)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Stripes:
    """Vertical or horizontal stripes with noise: two classes that a small network tells apart."""

    images: Tensor
    labels: Tensor
    fixed: bool = True
    labelled: bool = True
    bad: tuple[Bad, ...] = ()
    plain = property(lambda self: self)

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


def task_for(
    teacher: nn.Module,
    data: Data,
    folder: Path,
    asked: Distilling,
    progress: Callable[[str, Progress], None] = lambda name, now: None,
) -> Task:
    graph = trace(teacher, torch.zeros(1, 1, 8, 8))
    scores, budget = score(teacher, graph, "l2"), Budget(0.6, granule=1)
    path = stages(graph, scores, budget, asked.assistants)
    guide = Guide("teacher", teacher)
    return Task(teacher, guide, graph, scores, budget, path, asked, data, 0, CPU, folder.joinpath, progress)
