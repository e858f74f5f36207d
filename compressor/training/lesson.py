"""Lessons, the objects that the loop trains: `Taught` (one network, labels and teachers), or any other `Lesson`.

The loop knows batches, steps, optimizers and checkpoints. A lesson knows networks: how to compute the gradients of
one batch, and what to do before and after the optimizer's step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from compressor.data.split import Data
from compressor.recipe.loss_terms import Term
from compressor.recipe.schedule import NO_ANSWERS, Schedule
from compressor.training.comparisons import Beside, Seen
from compressor.training.comparisons.comparison import turned
from compressor.training.compiling import Forward, compiled
from compressor.training.evaluate import accuracy
from compressor.training.guides import Answers, Guide, answering, answers_of
from compressor.training.losses import LOSSES, cross_entropy, kd_each
from compressor.training.optimizers import Named
from compressor.training.precision import Arithmetic

Backward = Callable[[Tensor], None]


class Lesson(Protocol):
    """Interface between the loop and the networks in training.

    Order of calls: ``begin``, ``learn`` for every part of a batch, ``before_step``, the optimizer, ``after_step``.
    """

    @property
    def network(self) -> nn.Module:
        """The network that is tested and returned."""
        ...

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """All networks in training, by name."""
        ...

    @property
    def teacher(self) -> str | None:
        """Name of the network's current teacher."""
        ...

    @property
    def decayed(self) -> Named:
        """Trained parameters with weight decay."""
        ...

    @property
    def kept(self) -> Named:
        """Trained parameters without weight decay."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Warnings about settings that were not followed."""
        ...

    def begin_epoch(self, number: int) -> None:
        """Prepare for epoch ``number`` (from 0), or for the rest of it after a resume."""
        ...

    def begin(self) -> None:
        """Discard what an aborted batch has left."""
        ...

    def learn(
        self,
        images: Tensor,
        labels: Tensor,
        index: Tensor,
        backward: Backward,
        theirs: Tensor | None = None,
    ) -> Tensor:
        """Call ``backward`` with the loss, or with its parts one by one; return the whole loss, detached.

        ``theirs``: the teachers' version of these images, if it differs.
        """
        ...

    def before_step(self) -> None:
        """Called when the gradients of a batch are complete."""
        ...

    def after_step(self, step: int, steps: int) -> None:
        """Called after step ``step`` (from 1) of ``steps`` in the whole training has changed the weights."""
        ...

    def tested(self, accuracy: float) -> None:
        """Called with the network's accuracy after a test."""
        ...

    def watched(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor | None:
        """Loss of the network as it would be returned, to compare two times; None if the loss itself changes."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All tensors that later steps depend on, without the optimizer's."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors that ``state`` returned."""
        ...

    def identity(self) -> Mapping[str, object]:
        """The values that must be equal for a checkpoint to continue this lesson, by key."""
        ...


class Taught:
    """One network, taught by the labels and by one guide (teacher) at a time.

    The guides are sorted weakest first. As soon as the network's test accuracy is above that of its current guide,
    the next guide teaches (Miles and Mikolajczyk 2020, the second stage); the last one stays.
    ``at_once``: all guides teach, from beginning to end.
    """

    def __init__(
        self,
        network: nn.Module,
        guides: Sequence[Guide],
        data: Data,
        schedule: Schedule,
        arithmetic: Arithmetic,
        terms: Sequence[Term] = (),
        seed: int = 0,
        at_once: bool = False,
    ) -> None:
        self._identity: dict[str, object] = {
            "network": digest(network),
            "teacher": " ".join(digest(guide.network) for guide in guides) or "none",
            "losses": [term.text for term in terms],
            "kept": [{layer: list(kept) for layer, kept in guide.kept.items()} for guide in guides],
            "at_once": at_once,
        }
        self._at_once = at_once
        self._epoch = 0
        self._reads_layers = bool(terms)
        self.network = arithmetic.copy(network)
        self.notes: list[str] = []
        compiling = schedule.compile and not self._reads_layers
        self._forward: Forward = compiled(self.network) if compiling else self.network
        if compiling != schedule.compile:
            self.notes.append("nothing was compiled, because losses read layer outputs")
        self._data, self._schedule, self._arithmetic = data, schedule, arithmetic
        self._guides = list(guides)
        self._number = torch.zeros((), dtype=torch.int64)
        self._answers: dict[int, Answers] = {}
        self._copies: dict[int, nn.Module] = {}
        taught_by: list[Guide | None] = [*guides] or [None]
        self._extra_losses = [
            Beside(
                terms,
                self.network,
                None if guide is None or guide.by_labels else arithmetic.copy(guide.network),
                data,
                arithmetic,
                schedule=schedule,
                seed=seed,
                kept=guide.kept if guide else {},
            )
            for guide in (taught_by if terms else ())
        ]
        self._extra_modules = nn.ModuleList(self._extra_losses)

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {"": self.network}

    @property
    def teacher(self) -> str | None:
        if self._at_once:
            return " + ".join(guide.name for guide in self._guides)
        return self._guides[int(self._number)].name if self._guides else None

    @property
    def decayed(self) -> Named:
        return [(name, p) for name, p in self._learning if p.ndim > 1]

    @property
    def kept(self) -> Named:
        return [(name, p) for name, p in self._learning if p.ndim <= 1]

    @property
    def _learning(self) -> Named:
        return [*self.network.named_parameters(), *self._extra_modules.named_parameters("beside")]

    def begin_epoch(self, number: int) -> None:
        self._epoch = number

    def begin(self) -> None: ...

    def learn(
        self,
        images: Tensor,
        labels: Tensor,
        index: Tensor,
        backward: Backward,
        theirs: Tensor | None = None,
    ) -> Tensor:
        teacher_images = images if theirs is None else theirs
        if self._reads_layers:
            return self._learn_with_layers(images, labels, backward, teacher_images)
        numbers = range(len(self._guides)) if self._at_once else [int(self._number)] if self._guides else []
        teacher_logits = [self._logits_of(number, teacher_images, labels, index) for number in numbers]
        with self._arithmetic.autocast():
            logits = self._forward(images)
        if len(teacher_logits) > 1:
            loss = loss_of_several(logits, labels, teacher_logits, self._schedule)
        else:
            loss = loss_of(logits, labels, teacher_logits[0] if teacher_logits else None, self._schedule)
        backward(loss)
        return loss.detach()

    def _learn_with_layers(
        self, images: Tensor, labels: Tensor, backward: Backward, teacher_images: Tensor
    ) -> Tensor:
        """`learn` with extra losses: the teacher runs on every batch, because its layer outputs are used."""
        number, count = int(self._number), len(images)
        guide = self._guides[number] if self._guides else None
        teacher = None if guide is None else self._copy_of(number)
        extra = self._extra_losses[number]
        if extra.ways > 1:
            images, teacher_images = turned(images), turned(teacher_images)
        # Extra losses read layers only of a network that gets images.
        image_teacher = None if guide is None or guide.by_labels else teacher
        watching = extra.watching(self.network, image_teacher)
        teacher_logits = None
        with self._arithmetic.autocast(), watching as (outputs, teacher_outputs):
            if guide is not None and teacher is not None:
                with torch.no_grad():
                    teacher_logits = teacher(labels if guide.by_labels else teacher_images).float()
            logits = self.network(images)
        # With turned images, only the first ``count`` answers are of the images as they are.
        loss = loss_of(
            logits[:count], labels, None if teacher_logits is None else teacher_logits[:count], self._schedule
        )
        piece = Seen(
            images,
            labels,
            logits,
            teacher_logits,
            outputs,
            teacher_outputs,
            extra.ways,
            (self.network, image_teacher),
        )
        with self._arithmetic.autocast():
            loss = loss + extra.loss(self._epoch, piece)
        backward(loss)
        return loss.detach()

    def before_step(self) -> None: ...

    def after_step(self, step: int, steps: int) -> None: ...

    def tested(self, accuracy: float) -> None:
        while not self._at_once and int(self._number) + 1 < len(self._guides) and accuracy > self._to_beat():
            self._number += 1

    def watched(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor | None:
        """The loss from the labels and the strongest guide, in float32."""
        teacher_logits = None
        if self._guides:
            guide = self._guides[-1]
            # A copy for this call only: `_copy_of` would drop the copy of the guide that teaches now.
            teacher = answering(guide.network, self._arithmetic)
            teacher_logits = teacher(labels if guide.by_labels else images).float()
        return loss_of(network(images).float(), labels, teacher_logits, self._schedule)

    def state(self) -> dict[str, Tensor]:
        return {
            **{f"network.{k}": v for k, v in self.network.state_dict().items()},
            **{f"beside.{k}": v for k, v in self._extra_modules.state_dict().items()},
            "guide": self._number,
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for prefix, module in (("network.", self.network), ("beside.", self._extra_modules)):
            module.load_state_dict(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            )
        self._number.copy_(state["guide"])

    def identity(self) -> Mapping[str, object]:
        return self._identity

    def _to_beat(self) -> float:
        """Test accuracy of the current guide, measured once."""
        number = int(self._number)
        guide = self._guides[number]
        if guide.accuracy is None:
            measured = accuracy(guide.network, self._data.test, device=self._arithmetic.device)
            guide = self._guides[number] = replace(guide, accuracy=measured)
        assert guide.accuracy is not None
        return guide.accuracy

    def _copy_of(self, number: int) -> nn.Module:
        """Copy of a guide on the network's device; unless all teach at once, the copies of other guides are dropped."""
        if number not in self._copies:
            if not self._at_once:
                self._copies.clear()
                self._answers.clear()
            guide = self._guides[number]
            self._copies[number] = answering(guide.network, self._arithmetic)
        return self._copies[number]

    def _logits_of(self, number: int, images: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """Logits of guide ``number`` for these images."""
        teacher = self._copy_of(number)
        if self._guides[number].by_labels:
            return teacher(labels)
        if number not in self._answers:
            self._answers[number] = answers_of(
                teacher, self._data.train, self._schedule, self._arithmetic, self.notes.append
            )
        return self._answers[number](images, index)


def loss_of(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, schedule: Schedule) -> Tensor:
    """w · teacher_loss + (1 − w) · cross_entropy, w the schedule's ``teacher_weight``; w = 0 without a teacher.

    With ``teacher_loss = "none"`` the first part is zero: the losses of ``distil.losses`` replace it.
    """
    share = schedule.teacher_weight if teacher_logits is not None else 0.0
    if teacher_logits is None or share == 0:
        return cross_entropy(logits, labels, label_smoothing=schedule.label_smoothing)
    if schedule.teacher_loss == NO_ANSWERS:
        if share == 1:
            return torch.zeros((), device=logits.device)
        return (1 - share) * cross_entropy(logits, labels, label_smoothing=schedule.label_smoothing)
    loss = LOSSES[schedule.teacher_loss]
    settings = {"temperature": schedule.temperature} if loss.tempered else {}
    by_teacher = loss.weight * loss.function(
        logits, teacher_logits, *([labels] if loss.labels else []), **settings
    )
    if share == 1:
        return by_teacher
    by_labels = cross_entropy(logits, labels, label_smoothing=schedule.label_smoothing)
    return share * by_teacher + (1 - share) * by_labels


def loss_of_several(
    logits: Tensor, labels: Tensor, teacher_logits: Sequence[Tensor], schedule: Schedule
) -> Tensor:
    """`loss_of` with several teachers at once: each image follows a random subset of them.

    For each image the teacher with the largest divergence from the student stays, and each other one with
    probability ½; the loss is the mean over those that stay (teacher dropping, Sariyildiz et al. 2024, section 3.2).
    """
    divergences = torch.stack(
        [kd_each(logits, teacher, temperature=schedule.temperature) for teacher in teacher_logits]
    )
    stays = (torch.rand(divergences.shape, device=divergences.device) < 0.5).scatter_(
        0, divergences.argmax(0, keepdim=True), True
    )
    by_teachers = ((divergences * stays).sum(0) / stays.sum(0)).mean()
    share = schedule.teacher_weight
    by_labels = cross_entropy(logits, labels, label_smoothing=schedule.label_smoothing) if share < 1 else 0.0
    return share * by_teachers + (1 - share) * by_labels


def digest(network: nn.Module) -> str:
    """SHA-256 of a network's tensors."""
    return digest_of(network.state_dict())


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors: names, types, shapes and every bit."""
    result = hashlib.sha256()
    for name, tensor in tensors.items():
        result.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # Through uint8, because numpy knows no bfloat16.
        result.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return result.hexdigest()
