"""What the loop trains: one network taught by labels and teachers (`Taught`), or whatever else is a `Lesson`.

The loop knows batches, steps, optimizers and checkpoints. A lesson knows networks: how one batch becomes gradients,
and what is to be done around the optimizer's step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol

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
from compressor.training.hints import Channels, Hints
from compressor.training.losses import LOSSES, cross_entropy, kd_each
from compressor.training.optimizers import Named
from compressor.training.precision import Arithmetic

Backward = Callable[[Tensor], None]

NO_HINTS = Hints((), 0.0)


class Lesson(Protocol):
    """The rule between calls: ``begin``, ``learn`` for every part of a batch, ``before_step``, the optimizer,
    ``after_step``.
    """

    @property
    def network(self) -> nn.Module:
        """The network that is tested and handed out."""
        ...

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """All networks that learn, by name."""
        ...

    @property
    def teacher(self) -> str | None:
        """Who teaches the network now."""
        ...

    @property
    def decayed(self) -> Named:
        """What the optimizer moves and weight decay pulls at."""
        ...

    @property
    def kept(self) -> Named:
        """What the optimizer moves and nothing pulls at."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What did not go as it was asked for."""
        ...

    def begin_epoch(self, number: int) -> None:
        """Epoch ``number`` (from 0) begins, or what is left of it."""
        ...

    def begin(self) -> None:
        """Drop what a batch that was broken off has left."""
        ...

    def learn(
        self,
        images: Tensor,
        labels: Tensor,
        index: Tensor,
        backward: Backward,
        theirs: Tensor | None = None,
    ) -> Tensor:
        """Call ``backward`` with the loss, or with its parts one by one; return the whole, detached.

        ``theirs``: what teachers see of these images, where it is something else.
        """
        ...

    def before_step(self) -> None:
        """Gradients are complete."""
        ...

    def after_step(self, step: int, steps: int) -> None:
        """Step ``step`` (from 1) of ``steps`` in the whole training has moved the weights."""
        ...

    def tested(self, accuracy: float) -> None:
        """The network is right on this share of the test set."""
        ...

    def watched(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor | None:
        """How far the network, as it would be handed out, is from what it is to learn; none where that changes."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything beside the optimizer's that later steps depend on."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state`` gave."""
        ...

    def identity(self) -> Mapping[str, object]:
        """What makes this lesson this one and no other, in parts."""
        ...


class Taught:
    """One network, told by the labels and by the first of its guides that it has not beaten yet.

    The guides come weakest first. As soon as the network is right more often on the test set than the one that
    teaches it, the next one takes over (Miles and Mikolajczyk 2020, the second stage); the last one stays.
    ``at_once``: all of them teach, from beginning to end.
    """

    def __init__(
        self,
        network: nn.Module,
        guides: Sequence[Guide],
        data: Data,
        schedule: Schedule,
        arithmetic: Arithmetic,
        hints: Hints | None = None,
        channels: Channels = MappingProxyType({}),
        terms: Sequence[Term] = (),
        seed: int = 0,
        at_once: bool = False,
    ) -> None:
        self._identity: dict[str, object] = {
            "network": digest(network),
            "teacher": " ".join(digest(guide.network) for guide in guides) or "none",
            "hints": [list(hints.layers), hints.weight] if hints else None,
            "losses": [term.text for term in terms],
            "kept": [{layer: list(kept) for layer, kept in guide.kept.items()} for guide in guides],
            "at_once": at_once,
        }
        self._at_once = at_once
        self._hints, self._channels, self._epoch = hints, channels, 0
        self._looks = hints is not None or bool(terms)
        self.network = arithmetic.copy(network)
        self.notes: list[str] = []
        compiling = schedule.compile and not self._looks
        self._forward: Forward = compiled(self.network) if compiling else self.network
        if compiling != schedule.compile:
            self.notes.append("nothing was compiled, because losses look at layers")
        self._data, self._schedule, self._arithmetic = data, schedule, arithmetic
        self._guides = list(guides)
        self._number = torch.zeros((), dtype=torch.int64)
        self._answers: dict[int, Answers] = {}
        self._copies: dict[int, nn.Module] = {}
        taught_by: list[Guide | None] = [*guides] or [None]
        self._beside = [
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
        self._own = nn.ModuleList(self._beside)

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
        return [*self.network.named_parameters(), *self._own.named_parameters("beside")]

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
        shown = images if theirs is None else theirs
        if self._looks:
            return self._looking(images, labels, backward, shown)
        teaching = range(len(self._guides)) if self._at_once else [int(self._number)] if self._guides else []
        told = [self._told_by(number, shown, labels, index) for number in teaching]
        with self._arithmetic.autocast():
            said = self._forward(images)
        if len(told) > 1:
            loss = loss_of_several(said, labels, told, self._schedule)
        else:
            loss = loss_of(said, labels, told[0] if told else None, self._schedule)
        backward(loss)
        return loss.detach()

    def _looking(self, images: Tensor, labels: Tensor, backward: Backward, shown: Tensor) -> Tensor:
        """The same with the teacher asked live, since its layers are looked at."""
        number, hints, count = int(self._number), self._hints or NO_HINTS, len(images)
        guide = self._guides[number] if self._guides else None
        teacher = None if guide is None else self._asked(number)
        beside = self._beside[number] if self._beside else None
        ways = 1 if beside is None else beside.ways
        if ways > 1:
            images, shown = turned(images), turned(shown)
        looked_at = None if guide is None or guide.by_labels else teacher
        watched: AbstractContextManager[Any] = (
            nullcontext(({}, {})) if beside is None else beside.watching(self.network, looked_at)
        )
        told = None
        with self._arithmetic.autocast(), watched as (seen, looks):
            if guide is not None and teacher is not None:
                with torch.no_grad(), hints.watching(teacher) as theirs:
                    told = teacher(labels if guide.by_labels else shown).float()
            with hints.watching(self.network) as mine:
                said = self.network(images)
        loss = loss_of(said[:count], labels, None if told is None else told[:count], self._schedule)
        if self._hints is not None and guide is not None:
            loss = loss + self._hints.loss(mine, theirs, self._channels, guide.channels)
        if beside is not None:
            given = Seen(images, labels, said, told, seen, looks, ways, (self.network, looked_at))
            with self._arithmetic.autocast():
                loss = loss + beside.loss(self._epoch, given)
        backward(loss)
        return loss.detach()

    def before_step(self) -> None: ...

    def after_step(self, step: int, steps: int) -> None: ...

    def tested(self, accuracy: float) -> None:
        while not self._at_once and int(self._number) + 1 < len(self._guides) and accuracy > self._bar():
            self._number += 1

    def watched(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor | None:
        """The loss by the labels and by the strongest guide, in float32."""
        told = None
        if self._guides:
            guide = self._guides[-1]
            # A copy for once: those that teach are let go when another one is asked.
            teacher = answering(guide.network, self._arithmetic, guide.shared_out)
            told = teacher(labels if guide.by_labels else images).float()
        return loss_of(network(images).float(), labels, told, self._schedule)

    def state(self) -> dict[str, Tensor]:
        return {
            **{f"network.{k}": v for k, v in self.network.state_dict().items()},
            **{f"beside.{k}": v for k, v in self._own.state_dict().items()},
            "guide": self._number,
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for prefix, module in (("network.", self.network), ("beside.", self._own)):
            module.load_state_dict(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            )
        self._number.copy_(state["guide"])

    def identity(self) -> Mapping[str, object]:
        return self._identity

    def _bar(self) -> float:
        """How often the guide that teaches now is right."""
        number = int(self._number)
        guide = self._guides[number]
        if guide.accuracy is None:
            right = accuracy(guide.network, self._data.test, device=self._arithmetic.device)
            guide = self._guides[number] = replace(guide, accuracy=right)
        assert guide.accuracy is not None
        return guide.accuracy

    def _asked(self, number: int) -> nn.Module:
        """A guide where this network computes; those that teach no more are let go."""
        if number not in self._copies:
            if not self._at_once:
                self._copies.clear()
                self._answers.clear()
            guide = self._guides[number]
            self._copies[number] = answering(guide.network, self._arithmetic, guide.shared_out)
        return self._copies[number]

    def _told_by(self, number: int, images: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """What a guide says of these images."""
        teacher = self._asked(number)
        if self._guides[number].by_labels:
            return teacher(labels)
        if number not in self._answers:
            self._answers[number] = answers_of(
                teacher, self._data.train, self._schedule, self._arithmetic, self.notes.append
            )
        return self._answers[number](images, index)


def loss_of(said: Tensor, labels: Tensor, told: Tensor | None, schedule: Schedule) -> Tensor:
    """w · teacher_loss + (1 − w) · cross_entropy, w the schedule's ``teacher_weight``; by labels alone if none told.

    With ``teacher_loss = "none"`` the first part is nothing: losses beside have its place.
    """
    share = schedule.teacher_weight if told is not None else 0.0
    if told is None or share == 0:
        return cross_entropy(said, labels, label_smoothing=schedule.label_smoothing)
    if schedule.teacher_loss == NO_ANSWERS:
        if share == 1:
            return torch.zeros((), device=said.device)
        return (1 - share) * cross_entropy(said, labels, label_smoothing=schedule.label_smoothing)
    known = LOSSES[schedule.teacher_loss]
    settings = {"temperature": schedule.temperature} if known.tempered else {}
    followed = known.weight * known.function(said, told, *([labels] if known.labels else []), **settings)
    if share == 1:
        return followed
    labelled = cross_entropy(said, labels, label_smoothing=schedule.label_smoothing)
    return share * followed + (1 - share) * labelled


def loss_of_several(said: Tensor, labels: Tensor, told: Sequence[Tensor], schedule: Schedule) -> Tensor:
    """The same with several teachers at once, of which each image has some.

    For each image the teacher that the student is farthest from stays, and each other one with a chance of one
    half; the mean over those that stay is followed (teacher dropping, Sariyildiz et al. 2024, section 3.2).
    """
    apart = torch.stack([kd_each(said, each, temperature=schedule.temperature) for each in told])
    stays = (torch.rand(apart.shape, device=apart.device) < 0.5).scatter_(
        0, apart.argmax(0, keepdim=True), True
    )
    followed = ((apart * stays).sum(0) / stays.sum(0)).mean()
    share = schedule.teacher_weight
    labelled = cross_entropy(said, labels, label_smoothing=schedule.label_smoothing) if share < 1 else 0.0
    return share * followed + (1 - share) * labelled


def digest(network: nn.Module) -> str:
    """The hash of a network's tensors."""
    return digest_of(network.state_dict())


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """The hash of tensors: names, types, shapes and every bit."""
    result = hashlib.sha256()
    for name, tensor in tensors.items():
        result.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # Through uint8, because numpy knows no bfloat16.
        result.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return result.hexdigest()
