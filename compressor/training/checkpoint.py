"""A training on disk, so that a killed run goes on exactly where it was.

    EPOCH-STEP.safetensors   state.NAME, average.NAME, optimizer.KEY.NAME, losses
    EPOCH-STEP.json          the tensors' SHA-256, the place, the epochs so far, what makes this training this one

The description is written last, so that it never speaks of tensors that are not there. The two latest checkpoints
stay: where the last is damaged, the one before is taken, aloud. Nothing is pickled: reading a checkpoint runs no code.
Left out: random states, because every step is seeded by its number; and the device and the number of processes, so
that a run may go on elsewhere (then not bit by bit).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from compressor.base.files import write_atomic
from compressor.data.split import Data
from compressor.errors import CompressError
from compressor.recipe.schedule import Schedule
from compressor.training.distributed.world import World
from compressor.training.ema import Average
from compressor.training.history import Epoch
from compressor.training.lesson import Lesson

SCHEMA = 1
KEPT = 2
"""How many checkpoints stay."""
PLACE = ("epoch", "step", "micro", "rate", "back", "again", "seconds")
"""What of a place is one JSON value each."""

Identity = dict[str, Any]


@dataclass
class Place:
    """Where a training is: ``step`` steps of epoch ``epoch`` (from 0) are done, with these losses.

    ``micro``: images at once. ``rate``: the share of the schedule's learning rate that is used, below 1 after the
    training had to go back; ``back`` says where from. ``again``: what is to be told of the times that it began again.
    """

    micro: int
    losses: Tensor
    epoch: int = 0
    step: int = 0
    rate: float = 1.0
    back: str | None = None
    again: list[str] = field(default_factory=list)
    seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)


@dataclass(frozen=True)
class Moving:
    """What a training changes in place."""

    lesson: Lesson
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: Average | None
    place: Place

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor to be saved, by name."""
        found = {f"state.{name}": tensor for name, tensor in self.lesson.state().items()}
        if self.average is not None:
            found |= {f"average.{name}": t for name, t in self.average.network.state_dict().items()}
        for name, parameter in (*self.lesson.decayed, *self.lesson.kept):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found[f"optimizer.{key}.{name}"] = value
                elif value is not None:
                    raise CompressError(
                        f"optimizer `{type(self.optimizer).__name__}` keeps a {type(value).__name__} (`{key}`), "
                        "which no checkpoint holds",
                        "choose another optimizer: sgd and adamw can go on after a break",
                    )
        return {**found, "losses": self.place.losses}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over saved tensors, each in the layout that its like has here."""
        self.lesson.restore(_under("state.", tensors))
        if self.average is not None:
            self.average.network.load_state_dict(_under("average.", tensors))
        saved = _under("optimizer.", tensors)
        self.optimizer.state.clear()
        for name, parameter in (*self.lesson.decayed, *self.lesson.kept):
            for key in {each.partition(".")[0] for each in saved if each.partition(".")[2] == name}:
                value = saved[f"{key}.{name}"]
                if value.shape == parameter.shape and value.dim():
                    # In the parameter's layout: other strides take another path through the arithmetic.
                    value = torch.empty_like(parameter, requires_grad=False, dtype=value.dtype).copy_(value)
                self.optimizer.state[parameter][key] = value
        self.place.losses.copy_(tensors["losses"])


class Checkpoints:
    """A folder with the checkpoints of one training."""

    def __init__(self, folder: Path, identity: Identity, warn: Callable[[str], None]) -> None:
        self.folder, self.identity, self.warn = folder, identity, warn

    def save(self, moving: Moving) -> None:
        """Write where the training is now."""
        place = moving.place
        name = f"{place.epoch:06d}-{place.step:08d}"
        content, where = _packed(moving)
        about = {
            "schema": SCHEMA,
            "sha256": hashlib.sha256(content).hexdigest(),
            "identity": self.identity,
            **where,
        }
        write_atomic(self.folder / f"{name}.safetensors", content)
        write_atomic(self.folder / f"{name}.json", json.dumps(about, indent=1))
        for old in self._found()[KEPT:]:
            old.unlink(missing_ok=True)
            old.with_suffix(".safetensors").unlink(missing_ok=True)

    def load(self, moving: Moving) -> bool:
        """Put the last checkpoint that is whole into ``moving``; whether there was one."""
        damaged: list[str] = []
        for path in self._found():
            try:
                about, tensors = self._read(path)
            except _DamagedError as damage:
                damaged.append(f"checkpoint `{path.stem}` in `{self.folder}` is damaged ({damage})")
                continue
            for text in damaged:
                self.warn(f"{text}: went on from `{path.stem}`, the one before")
            _unpack(moving, tensors, about)
            return True
        if damaged:
            raise CompressError(
                f"{damaged[0]}, and no other is left",
                "delete the folder to start over, or choose another --out",
            )
        return False

    def _found(self) -> list[Path]:
        """The descriptions, the latest first."""
        return sorted(self.folder.glob("[0-9]*-[0-9]*.json"), reverse=True)

    def _read(self, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        try:
            about = json.loads(path.read_text())
            content = path.with_suffix(".safetensors").read_bytes()
        except (OSError, ValueError) as error:
            raise _DamagedError(str(error).splitlines()[0]) from error
        if not isinstance(about, dict) or about.get("schema") != SCHEMA:
            raise _DamagedError("its description is not of this version")
        _refuse_another_run(self.folder, about["identity"], self.identity)
        if hashlib.sha256(content).hexdigest() != about["sha256"]:
            raise _DamagedError("its tensors do not have the checksum that was written")
        try:
            return about, load(content)
        except SafetensorError as error:
            raise _DamagedError(str(error)) from error


def spread(moving: Moving, world: World) -> None:
    """Every process goes on from where the first one is."""
    if world.size > 1:
        content, where = world.from_first(lambda: _packed(moving))
        if not world.first:
            _unpack(moving, load(content), where)


def _packed(moving: Moving) -> tuple[bytes, dict[str, Any]]:
    """Everything that moves: its tensors as a file has them, and the rest as JSON has it."""
    place = moving.place
    # Clones, because the file format refuses tensors that share memory, as tied weights do.
    content = save(
        {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in moving.tensors().items()
        }
    )
    return content, {
        "scaler": moving.scaler.state_dict(),
        **{key: getattr(place, key) for key in PLACE},
        "history": [asdict(epoch) for epoch in place.history],
    }


def _unpack(moving: Moving, tensors: Mapping[str, Tensor], where: Mapping[str, Any]) -> None:
    moving.restore(tensors)
    moving.scaler.load_state_dict(where["scaler"])
    for key in PLACE:
        setattr(moving.place, key, where[key])
    moving.place.history[:] = [Epoch(**epoch) for epoch in where["history"]]


class _DamagedError(Exception):
    """Why a checkpoint cannot be used."""


def identity_of(lesson: Lesson, data: Data, schedule: Schedule, seed: int) -> Identity:
    """What makes a training this one and no other, key by key, so that an error can name the first that differs."""
    settings = {key: value for key, value in asdict(schedule).items() if key != "checkpoint_s"}
    return json.loads(  # as it comes back from a file: tuples are lists there
        json.dumps(
            {
                **{f"schedule.{key}": value for key, value in settings.items()},
                "seed": seed,
                "data": [data.name, data.classes, data.shape, len(data.train), len(data.test)],
                **lesson.identity(),
            }
        )
    )


def _refuse_another_run(folder: Path, saved: Mapping[str, Any], identity: Identity) -> None:
    key = next((key for key in identity if saved.get(key) != identity[key]), None)
    if key is not None:
        there, here = saved.get(key), identity[key]
        shown = f": {there!r} there, {here!r} here" if len(f"{there!r}{here!r}") < 80 else ""
        raise CompressError(
            f"the checkpoints in `{folder}` are of another training: `{key}` differs{shown}",
            "delete the folder to start over, or name another one",
        )


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
