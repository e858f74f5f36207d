"""Losses beside the teacher's answers and the labels, between one student and one of its teachers.

What they need to compare the two (projections to one width, memories of earlier images, centres of classes) is
made here, learns with the student, is saved with its checkpoints, and is left behind when the network is handed out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.data.split import Data
from compressor.distill.evaluate import in_eval_mode
from compressor.distill.hints import Channels
from compressor.distill.losses import LOSSES
from compressor.distill.losses.features import pooled
from compressor.distill.parallel import here
from compressor.distill.places import EMBEDDING, Places, pairs_of, watching
from compressor.distill.precision import Arithmetic
from compressor.distill.repeat import seed_of
from compressor.distill.schedule import Schedule
from compressor.distill.terms import Term
from compressor.errors import UsageError, unknown_name

EMBEDDED = 128
"""The width of the space in which ``crd`` and ``rrd`` compare."""
REMEMBERED = 4096
"""How many images they remember; never more than half of the data, so that an image is not compared with itself."""
LEAST_BATCH = 3
"""Two images have one relation, and as a share of all it is 1."""

_OURS = {"student", "teacher", "labels", "centres", "others", "samples"}


def check_terms(terms: Sequence[Term], data: Data, schedule: Schedule) -> None:
    """Refuse, before anything is computed, what could not be learnt by these losses."""
    known = [name for name, loss in LOSSES.items() if name != "labels" and loss.looks_at != "views"]
    for term in terms:
        if term.name not in known:
            raise unknown_name("loss", term.name, known)
        loss = LOSSES[term.name]
        takes = set(signature(loss.function).parameters) - _OURS
        for setting in term.settings:
            if setting not in takes:
                raise unknown_name(f"setting of loss `{term.name}`", setting, sorted(takes) or ["(none)"])
        if loss.labels and not data.train.labelled:
            raise UsageError(f"loss `{term.name}` needs labels, and the pictures of `{data.name}` have none")
        if loss.labels and (schedule.mixup or schedule.cutmix):
            raise UsageError(
                f"loss `{term.name}` needs one label for each image, and mixup and cutmix mix them"
            )
        if loss.looks_at == "answers" and term.layers:
            raise UsageError(f"loss `{term.name}` compares answers, and was given layers")
        if loss.whole_batch or _remembers(term):
            _need_whole_batches(term.name, data, schedule)


def _need_whole_batches(name: str, data: Data, schedule: Schedule) -> None:
    batch = min(schedule.batch, len(data.train))
    if batch < LEAST_BATCH:
        raise UsageError(
            f"loss `{name}` compares the images of a batch, and a batch has {batch}",
            f"use at least {LEAST_BATCH}, and rather 64",
        )
    if schedule.micro_batch is not None and schedule.micro_batch < batch:
        raise UsageError(
            f"loss `{name}` compares the images of a whole batch, and micro_batch is {schedule.micro_batch} of {batch}",
            "leave micro_batch out, or use a smaller batch",
        )
    if here().size > 1:
        raise UsageError(
            f"loss `{name}` compares the images of a whole batch, and {here().size} processes have a piece each",
            "use it in one process, or a loss that looks at one image at a time, as kd, fitnet and attention do",
        )


def _remembers(term: Term) -> bool:
    return "others" in signature(LOSSES[term.name].function).parameters


def check_layers(terms: Sequence[Term], student: nn.Module, teacher: nn.Module, image: Tensor) -> None:
    """Refuse, before anything is computed, layers that the networks do not have."""
    if not terms:
        return
    mine, theirs = (
        Places(network, image.to(next(network.parameters()).device), whose)
        for network, whose in ((student, "student"), (teacher, "teacher"))
    )
    for term in terms:
        _layers(term, mine, theirs)


def _layers(term: Term, mine: Places, theirs: Places) -> list[tuple[str, str]]:
    """The layers of student and teacher that a term compares."""
    looks_at = LOSSES[term.name].looks_at
    if looks_at == "answers":
        return []
    alone = looks_at == "embeddings" and term.name != "fitnet"
    pairs = list(term.layers) or ([(EMBEDDING, EMBEDDING)] if alone else pairs_of(mine, theirs))
    for one, other in pairs:
        mine.check(one, f"loss `{term.name}`")
        theirs.check(other, f"loss `{term.name}`")
    if not pairs:
        shown = ", ".join(f"{path} {list(shape)}" for path, shape in [*mine.shapes.items()][-6:])
        raise UsageError(
            f"loss `{term.name}` finds no stages in student and teacher to compare",
            f"name layers, as in layers=A/B; the student has {shown}",
        )
    if term.name == "kd++" and len(pairs) > 1:
        raise UsageError("loss `kd++` compares one layer with the centres of classes", "name one layer")
    return pairs


class Beside(nn.Module):
    """The terms between a student and one teacher, as a module of all that they need."""

    def __init__(
        self,
        terms: Sequence[Term],
        student: nn.Module,
        teacher: nn.Module,
        data: Data,
        arithmetic: Arithmetic,
        *,
        temperature: float,
        seed: int = 0,
        kept: Channels = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self._temperature = temperature
        image = arithmetic.images(torch.zeros(1, *data.shape))
        with arithmetic.autocast():
            self._mine, self._theirs = Places(student, image, "student"), Places(teacher, image, "teacher")
        self.terms = tuple(terms)
        self._samples = len(data.train)
        self._pairs = {term.text: _layers(term, self._mine, self._theirs) for term in terms}
        self._kept = {
            layer: torch.tensor(channels, device=arithmetic.device) for layer, channels in kept.items()
        }
        for term in terms:
            if LOSSES[term.name].looks_at == "channels":
                self._check_channels(term)
        self.projections = nn.ModuleDict()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, 0, "projections"))
            for number, term in enumerate(terms):
                self._prepare(number, term)
        self.to(arithmetic.device)
        for number, term in enumerate(terms):
            if term.name == "kd++":
                ((_, layer),) = self._pairs[term.text]
                self.register_buffer(f"centres_{number}", self._centres(layer, teacher, data, arithmetic))

    @contextmanager
    def watching(self, student: nn.Module, teacher: nn.Module) -> Iterator[tuple[Any, Any]]:
        """What both give out while the block runs."""
        pairs = [pair for pairs in self._pairs.values() for pair in pairs]
        with (
            watching(student, [mine for mine, _ in pairs], self._mine.classifier) as seen,
            watching(teacher, [theirs for _, theirs in pairs], self._theirs.classifier) as shown,
        ):
            yield seen, shown

    def loss(
        self,
        epoch: int,
        said: Tensor,
        told: Tensor,
        labels: Tensor,
        seen: Mapping[str, Tensor],
        shown: Mapping[str, Tensor],
    ) -> Tensor:
        """Σ of weight · loss over the terms; a loss between several layers is their mean."""
        total = torch.zeros((), device=said.device)
        for number, term in enumerate(self.terms):
            loss = LOSSES[term.name]
            weight = (loss.weight if term.weight is None else term.weight) * term.share_at(epoch)
            if weight == 0:
                continue
            more: dict[str, Any] = dict(term.settings)
            if loss.labels:
                more["labels"] = labels
            if loss.looks_at == "answers":
                if loss.tempered:
                    more.setdefault("temperature", self._temperature)
                total = total + weight * loss.function(said, told, **more)
                continue
            pairs = self._pairs[term.text]
            for place, (mine, theirs) in enumerate(pairs):
                other = shown[theirs].detach()
                if loss.looks_at == "channels" and theirs in self._kept:
                    other = other[:, self._kept[theirs]]
                one = self._compared(number, place, term, seen[mine], other, more)
                total = total + weight / len(pairs) * one
        return total

    def _compared(
        self, number: int, place: int, term: Term, mine: Tensor, theirs: Tensor, more: dict[str, Any]
    ) -> Tensor:
        loss, key = LOSSES[term.name], f"{number}_{place}"
        if loss.looks_at in ("features", "channels"):
            return loss.function(mine, theirs, **more)
        with torch.autocast(mine.device.type, enabled=False):
            mine, theirs = mine.float(), theirs.float()
            if term.name != "fitnet":
                mine, theirs = pooled(mine), pooled(theirs)
            mine = self.projections[f"student_{key}"](mine)
            if not _remembers(term):
                if term.name == "kd++":
                    more = {**more, "centres": getattr(self, f"centres_{number}")}
                return loss.function(mine, theirs, **more)
            mine = F.normalize(mine, dim=1)
            theirs = F.normalize(self.projections[f"teacher_{key}"](theirs), dim=1)
            memory: _Memory = self.projections[f"memory_{key}"]  # type: ignore[assignment]
            if term.name == "rrd":  # looks for its own image too, so that one is remembered first
                memory.add(theirs.detach())
                return loss.function(mine, theirs, memory.others, **more)
            found = loss.function(mine, theirs, memory.others.clone(), samples=self._samples, **more)
            memory.add(theirs.detach())
            return found

    # ------------------------------------------------------------------ what is needed

    def _check_channels(self, term: Term) -> None:
        for mine, theirs in self._pairs[term.text]:
            own, other = self._mine.shapes[mine][0], self._theirs.shapes[theirs][0]
            shown = len(self._kept[theirs]) if theirs in self._kept else other
            if own != shown:
                raise UsageError(
                    f"loss `{term.name}`: layer `{mine}` of the student has {own} channels, "
                    f"`{theirs}` of the teacher shows {shown}",
                    "method indistill chooses the teacher's channels; fitnet maps between widths",
                )

    def _prepare(self, number: int, term: Term) -> None:
        if LOSSES[term.name].looks_at != "embeddings":
            return
        for place, (mine, theirs) in enumerate(self._pairs[term.text]):
            key = f"{number}_{place}"
            own, other = self._mine.shapes[mine], self._theirs.shapes[theirs]
            if _remembers(term):
                self.projections[f"student_{key}"] = nn.Linear(own[0], EMBEDDED)
                self.projections[f"teacher_{key}"] = nn.Linear(other[0], EMBEDDED)
                self.projections[f"memory_{key}"] = _Memory(min(REMEMBERED, max(1, self._samples // 2)))
            elif term.name == "fitnet" and len(own) == 3:
                self.projections[f"student_{key}"] = nn.Conv2d(own[0], other[0], 1, bias=False)
            else:
                self.projections[f"student_{key}"] = nn.Linear(own[0], other[0], bias=False)

    @torch.no_grad()
    def _centres(self, layer: str, teacher: nn.Module, data: Data, arithmetic: Arithmetic) -> Tensor:
        """The teacher's mean feature of each class."""
        sums = torch.zeros(len(data.classes), self._theirs.shapes[layer][0], device=arithmetic.device)
        seen = torch.zeros(len(data.classes), 1, device=arithmetic.device)
        with in_eval_mode(teacher), watching(teacher, [layer], self._theirs.classifier) as shown:
            for batch in data.train.batches(256):
                with arithmetic.autocast():
                    teacher(arithmetic.images(batch.images))
                labels = batch.labels.to(arithmetic.device)
                sums.index_add_(0, labels, pooled(shown[layer]).float())
                seen.index_add_(0, labels, torch.ones(len(labels), 1, device=arithmetic.device))
        return sums / seen.clamp(min=1)


class _Memory(nn.Module):
    """The embeddings of the latest images, first in, first out."""

    others: Tensor
    place: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("others", F.normalize(torch.randn(size, EMBEDDED), dim=1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def add(self, embeddings: Tensor) -> None:
        size = len(self.others)
        latest = embeddings[-size:]
        index = (self.place + torch.arange(len(latest), device=latest.device)) % size
        self.others[index] = latest.to(self.others.dtype)
        self.place.copy_((self.place + len(latest)) % size)
