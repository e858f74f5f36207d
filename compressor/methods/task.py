"""What every method is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from compressor.budget.plan import Plan
from compressor.budget.request import Budget
from compressor.cutting import cut
from compressor.cutting.proof import Check, check_cut, require
from compressor.data.split import Data
from compressor.distill import LOSSES, Guide, Progress, Schedule, Trained, reestimate, train
from compressor.distill.hints import hints_for
from compressor.distill.request import Distilling
from compressor.distill.terms import terms_of
from compressor.graph.channels import ChannelGraph
from compressor.methods.path import Stage, channels_of
from compressor.saliency.scores import Scores

PROOF_IMAGES = 4

STATISTICS_BATCHES = 20
"""Batches over which running statistics are measured anew after a cut."""


@dataclass(frozen=True)
class Task:
    """A teacher, the way to its student as far as scores say, and how to teach.

    ``guide``: who is asked at the top, the teacher itself or a stronger network that knows the same classes.
    ``given``: a student that is not cut from the teacher, as it begins, and ``auxiliary`` the network between, if the
    method has one; the path then has their names and costs alone.
    ``checkpoints`` and ``progress`` are told which training it is.
    """

    teacher: nn.Module
    guide: Guide
    graph: ChannelGraph
    scores: Scores
    budget: Budget
    path: tuple[Stage, ...]
    distilling: Distilling
    data: Data
    seed: int
    device: torch.device
    checkpoints: Callable[[str], Path]
    progress: Callable[[str, Progress], None]
    given: nn.Module | None = None
    auxiliary: nn.Module | None = None

    @property
    def student(self) -> Stage:
        """The last stage of the path."""
        return self.path[-1]


@dataclass(frozen=True)
class Training:
    """How one network was taught, and the proof that it was cut rightly from its teacher.

    ``ships``: it is wanted for itself, not only on the way to the student.
    """

    stage: Stage
    teacher: str
    trained: Trained
    checks: tuple[Check, ...] = ()
    ships: bool = False


Method = Callable[[Task], tuple[Training, ...]]
"""The trainings of a task, the student's last."""


def cut_and_proved(network: nn.Module, plan: Plan, task: Task) -> tuple[nn.Module, tuple[Check, ...]]:
    """The smaller network with running statistics of its own, and the proof that it is the silenced larger one."""
    smaller = cut(network, plan)
    checks = proved(network, smaller, plan, task.data)
    return with_own_statistics(smaller, task.data, task.seed, task.device), checks


def begun(task: Task) -> tuple[nn.Module, tuple[Check, ...]]:
    """The student before it learns: the one that was given, or cut from the teacher and proved."""
    return given(task.given) or cut_and_proved(task.teacher, task.student.plan, task)


def given(network: nn.Module | None) -> tuple[nn.Module, tuple[Check, ...]] | None:
    """A network that is not cut from another, where there is one: nothing needs to be proved."""
    return None if network is None else (network, ())


def proved(network: nn.Module, smaller: nn.Module, plan: Plan, data: Data) -> tuple[Check, ...]:
    """The proof on images of the data; an error where it fails."""
    images = next(iter(data.test.batches(PROOF_IMAGES))).images
    checks = check_cut(network, smaller, plan, (images,))
    require(checks)
    return checks


def with_own_statistics(network: nn.Module, data: Data, seed: int, device: torch.device) -> nn.Module:
    """A cut network with running statistics of its own: those of the larger one no longer fit."""
    return reestimate(network, data.train, batches=STATISTICS_BATCHES, seed=seed, device=device)


def taught(
    task: Task,
    stage: Stage,
    network: nn.Module,
    schedule: Schedule,
    guides: tuple[Guide, ...] = (),
    *,
    at_once: bool = False,
    more: Sequence[str] = (),
    only: Sequence[str] = (),
) -> Trained:
    """One training of the task, of the network that the stage leaves.

    ``more``: losses of the method beside those of the recipe; ``only``: these, and neither losses nor hints of
    the recipe.
    """
    name, asked = stage.name, task.distilling
    told = [term.text for term in terms_of(asked.losses) if guides or LOSSES[term.name].alone]
    hints = None
    for guide in () if only else guides:
        hints = hints_for(asked.hints, asked.hint_weight, network, guide.network)
    return train(
        network,
        task.data,
        schedule,
        guides=guides,
        hints=hints,
        channels=channels_of(asked.hints, stage.plan),
        losses=tuple(only) or (*told, *more),
        at_once=at_once,
        seed=task.seed,
        device=task.device,
        checkpoints=task.checkpoints(name),
        progress=partial(task.progress, name),
    )
