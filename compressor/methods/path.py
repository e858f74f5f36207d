"""From teacher to student in steps: which networks stand between them, and how each is taught.

One set of scores gives nested plans, the student's inside the last assistant's inside the first's. Each
network is the trained larger one with fewer channels, and that larger one is its teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.budget.allocate import Allocation, allocate
from compressor.budget.plan import Plan
from compressor.budget.request import Budget
from compressor.budget.solve import Costing
from compressor.cutting import cut
from compressor.cutting.proof import Check, check_cut, require
from compressor.data.split import Data
from compressor.distill import Progress, Schedule, Trained, reestimate, train
from compressor.graph.channels import ChannelGraph
from compressor.saliency.scores import Scores

PROOF_IMAGES = 4

STATISTICS_BATCHES = 20
"""Batches over which running statistics are measured anew after a cut."""


@dataclass(frozen=True)
class Stage:
    """A network on the way: its name, its plan from the teacher, and why it misses its share, if it does."""

    name: str
    plan: Plan
    missed: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"name": self.name, "missed": self.missed, **self.plan.to_dict()}

    @staticmethod
    def from_dict(value: Mapping[str, Any]) -> Stage:
        """The stage that ``to_dict`` wrote."""
        return Stage(value["name"], Plan.from_dict(value), value["missed"])


@dataclass(frozen=True)
class Training:
    """How one network was taught, and the proof that it was cut rightly from its teacher."""

    stage: Stage
    teacher: str
    trained: Trained
    checks: tuple[Check, ...]


def stages(
    graph: ChannelGraph,
    scores: Scores,
    budget: Budget,
    assistants: int,
    *,
    student: Allocation | None = None,
    measured: Mapping[str, Costing] | None = None,
) -> tuple[Stage, ...]:
    """The assistants, largest first, and the student; what they remove is evenly spaced.

    ``student``: its widths, where they were chosen already. Where there are limits and no share, assistants go by the
    share of MACs that the student loses.
    """
    student = student or allocate(graph, scores, budget, measured=measured)
    of, remove = (budget.of, budget.remove) if budget.remove else ("macs", student.plan.removed("macs"))
    result = [Stage("student", student.plan, student.missed)]
    for number in range(assistants, 0, -1):
        share = remove * number / (assistants + 1)
        if not share:
            continue  # nothing goes: the teacher itself
        between = budget.share_of(of, share)
        assistant = allocate(graph, scores, between, containing=result[0].plan, measured=measured)
        result.insert(0, Stage(f"assistant-{number}", assistant.plan, assistant.missed))
    return tuple(result)


def descend(
    teacher: nn.Module,
    path: Sequence[Stage],
    data: Data,
    schedule_of: Callable[[str], Schedule],
    *,
    seed: int,
    device: torch.device,
    checkpoints: Callable[[str], Path],
    progress: Callable[[str, Progress], None],
) -> tuple[Training, ...]:
    """Cut each network of the path from the one before it, prove the cut, and teach it by that one."""
    images = next(iter(data.test.batches(PROOF_IMAGES))).images
    trainings: list[Training] = []
    network, name, plan = teacher, "teacher", Plan({})
    for stage in path:
        step = stage.plan.within(plan)
        smaller = cut(network, step)
        checks = check_cut(network, smaller, step, (images,))
        require(checks)
        start = with_own_statistics(smaller, data, seed, device)
        trained = train(
            start,
            data,
            schedule_of(stage.name),
            teacher=network,
            seed=seed,
            device=device,
            checkpoints=checkpoints(stage.name),
            progress=partial(progress, stage.name),
        )
        trainings.append(Training(stage, name, trained, checks))
        network, name, plan = trained.network, stage.name, stage.plan
    return tuple(trainings)


def with_own_statistics(network: nn.Module, data: Data, seed: int, device: torch.device) -> nn.Module:
    """A cut network with running statistics of its own: those of the larger one no longer fit."""
    return reestimate(network, data.train, batches=STATISTICS_BATCHES, seed=seed, device=device)
