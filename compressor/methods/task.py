"""The input and the result of every method."""

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
    """A teacher, the plans of the networks to train (``path``), and the training options.

    ``guide``: the network that teaches first, the teacher itself or a stronger network with the same classes.
    ``given``: a student that is not cut from the teacher, before its training, and ``auxiliary`` the network between,
    if the method has one; the path then has only their names and costs.
    ``checkpoints`` and ``progress`` get the name of the training, ``repairs`` the name of the network that is being
    repaired and the share that is done.
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
    """The training of one network, and its start: the proof of its cut, and its repair.

    ``ships``: True if the network is a result of the run, not only a step towards the student.
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
    """Train the network of one stage; a repaired network must not end worse than it began (``guarded``).

    ``more``: losses of the method in addition to those of the recipe; ``only``: these instead of the recipe's.
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
