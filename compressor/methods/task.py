"""What every method is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import nn

from compressor.data.split import Data
from compressor.methods.stages import Stage
from compressor.methods.start import Start
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.scoring.scores import Scores
from compressor.recipe.budget import Budget
from compressor.recipe.distilling import Distilling
from compressor.recipe.loss_terms import terms_of
from compressor.recipe.repair import Repairing
from compressor.training import LOSSES, Guide, Progress, Schedule, Trained, train


def _in_silence(name: str, done: float) -> None: ...


@dataclass(frozen=True)
class Task:
    """A teacher, the way to its student as far as scores say, and how to teach.

    ``guide``: who is asked at the top, the teacher itself or a stronger network that knows the same classes.
    ``given``: a student that is not cut from the teacher, as it begins, and ``auxiliary`` the network between, if the
    method has one; the path then has their names and costs alone.
    ``checkpoints`` and ``progress`` are told which training it is, ``repairs`` which network is fitted and how far it
    is.
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
    repairing: Repairing = field(default_factory=Repairing)
    repairs: Callable[[str, float], None] = _in_silence

    @property
    def student(self) -> Stage:
        """The last stage of the path."""
        return self.path[-1]


@dataclass(frozen=True)
class Training:
    """How one network was taught, and how it began: the proof that it was cut rightly, and its repair.

    ``ships``: it is wanted for itself, not only on the way to the student.
    """

    stage: Stage
    teacher: str
    trained: Trained
    start: Start
    ships: bool = False


Method = Callable[[Task], tuple[Training, ...]]
"""The trainings of a task, the student's last."""


def taught(
    task: Task,
    stage: Stage,
    start: Start,
    schedule: Schedule,
    guides: tuple[Guide, ...] = (),
    *,
    at_once: bool = False,
    more: Sequence[str] = (),
    only: Sequence[str] = (),
) -> Trained:
    """One training of the task, of the network that the stage leaves; one that was repaired is not to end worse.

    ``more``: losses of the method beside those of the recipe; ``only``: these, and none of the recipe.
    """
    name, asked = stage.name, task.distilling
    told = [term.text for term in terms_of(asked.losses) if guides or LOSSES[term.name].alone]
    return train(
        start.network,
        task.data,
        schedule,
        guides=guides,
        losses=tuple(only) or (*told, *more),
        at_once=at_once,
        seed=task.seed,
        guarded=start.is_repaired and not only,
        device=task.device,
        checkpoints=task.checkpoints(name),
        progress=partial(task.progress, name),
    )
