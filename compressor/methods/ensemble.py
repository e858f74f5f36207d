"""Several students of one run, taught by the mean of their own logits (Walawalkar, Shen, Savvides 2020).

Each learns from the labels and from the mean of all logits, and that mean learns from the labels as well. So one
training gives a network for each of several budgets. Unlike in the cascade they share no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from compressor.methods.start import cut_and_repaired
from compressor.methods.task import Task, Training
from compressor.recipe.method_table import ENSEMBLE
from compressor.training import Arithmetic, Schedule, Trained, accuracy, follow
from compressor.training.lesson import Backward, digest, loss_of
from compressor.training.losses import cross_entropy
from compressor.training.optimizers import Named
from compressor.training.refusals import check_sense


def ensemble(task: Task) -> tuple[Training, ...]:
    """Train all networks of the path at once, the student last; every one of them ships."""
    schedule = task.distilling.schedule
    check_sense(task.data, schedule, taught=True)
    arithmetic = Arithmetic.on(task.device, schedule.precision)
    started = [(stage, cut_and_repaired(task.teacher, stage.plan, task, stage.name)) for stage in task.path]
    lesson = AtOnce({stage.name: start.network for stage, start in started}, schedule, arithmetic)
    trained = follow(
        lesson,
        task.data,
        schedule,
        arithmetic,
        seed=task.seed,
        checkpoints=task.checkpoints(ENSEMBLE),
        progress=partial(task.progress, ENSEMBLE),
    )
    others = []
    for stage, start in started[:-1]:
        network = lesson.networks[stage.name].eval()
        right = accuracy(network, task.data.test, device=task.device)
        untested = tuple(replace(epoch, accuracy=None) for epoch in trained.history)
        alone = Trained(network, untested, trained.resumed_from, trained.precision, before=right)
        others.append(Training(stage, ENSEMBLE, alone, start, ships=True))
    return (*others, Training(task.student, ENSEMBLE, trained, started[-1][1]))


class AtOnce:
    """A `Lesson` of several networks that teach each other, the student last."""

    def __init__(self, networks: Mapping[str, nn.Module], schedule: Schedule, arithmetic: Arithmetic) -> None:
        self.notes: list[str] = []
        self._identity = {f"network.{name}": digest(network) for name, network in networks.items()}
        self._schedule, self._arithmetic = schedule, arithmetic
        self._members = nn.ModuleDict({name: arithmetic.copy(network) for name, network in networks.items()})

    @property
    def network(self) -> nn.Module:
        return [*self._members.values()][-1]

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return dict(self._members.items())

    @property
    def teacher(self) -> str | None:
        return ENSEMBLE

    @property
    def decayed(self) -> Named:
        return [(name, p) for name, p in self._members.named_parameters() if p.ndim > 1]

    @property
    def kept(self) -> Named:
        return [(name, p) for name, p in self._members.named_parameters() if p.ndim <= 1]

    def begin_epoch(self, number: int) -> None: ...

    def begin(self) -> None: ...

    def learn(
        self,
        images: Tensor,
        labels: Tensor,
        index: Tensor,
        backward: Backward,
        theirs: Tensor | None = None,
    ) -> Tensor:
        """Σ over the networks of w · kd(own, all) + (1 − w) · labels, and the labels of all; over their number."""
        with self._arithmetic.autocast():
            said = [network(images).float() for network in self._members.values()]
        together = torch.stack(said).mean(dim=0)
        told, schedule = together.detach(), self._schedule
        losses = [loss_of(each, labels, told, schedule) for each in said]
        losses.append(cross_entropy(together, labels, label_smoothing=schedule.label_smoothing))
        loss = torch.stack(losses).sum() / len(said)
        backward(loss)
        return loss.detach()

    def before_step(self) -> None: ...

    def after_step(self, step: int, steps: int) -> None: ...

    def tested(self, accuracy: float) -> None: ...

    def watched(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor | None:
        """The loss by the labels alone: the mean of all logits changes with each network, so it is no fixed target."""
        return cross_entropy(network(images).float(), labels, label_smoothing=self._schedule.label_smoothing)

    def state(self) -> dict[str, Tensor]:
        return dict(self._members.state_dict())

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._members.load_state_dict(dict(state))

    def identity(self) -> Mapping[str, object]:
        return self._identity
