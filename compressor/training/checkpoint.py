"""Save a training to disk and resume it exactly, so that a killed run continues where it stopped.

    EPOCH-STEP.safetensors   state.NAME, optimizer.KEY.NAME, losses
    EPOCH-STEP.json          SHA-256 of the tensors, position, finished epochs, identity of the training

The JSON file is written last, so that it never refers to missing tensors. The two latest checkpoints are kept: if
the last is damaged, the one before is used, with a warning. Nothing is pickled: reading a checkpoint runs no code.
Not saved: random states, because every step is seeded by its number; and the device and the number of processes, so
that a run may resume on another machine (then not bit by bit).
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
from compressor.training.history import Epoch
from compressor.training.lesson import Lesson

SCHEMA = 1
KEPT = 2
"""Number of checkpoints kept."""
PLACE = ("epoch", "step", "micro", "rate", "back", "again", "seconds")
"""The fields of `Place` that are plain JSON values."""

Identity = dict[str, Any]


@dataclass
class Place:
    """Position of a training: ``step`` steps of epoch ``epoch`` (from 0) are done, with these losses.

    ``micro``: images computed at once. ``rate``: factor on the schedule's learning rate, below 1 after the training
    went back to a checkpoint; ``back``: warning with the step where that happened. ``again``: one warning for each
    restart from the beginning.
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
    """All state that a training changes in place."""

    lesson: Lesson
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    place: Place

    def tensors(self) -> dict[str, Tensor]:
        """All tensors to save, by name."""
        saved = {f"state.{name}": tensor for name, tensor in self.lesson.state().items()}
        for name, parameter in (*self.lesson.decayed, *self.lesson.kept):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    saved[f"optimizer.{key}.{name}"] = value
                elif value is not None:
                    raise CompressError(
                        f"optimizer `{type(self.optimizer).__name__}` has a {type(value).__name__} (`{key}`) in its "
                        "state, expected tensors: a checkpoint can save only these",
                        "choose another optimizer: sgd and adamw can be resumed",
                    )
        return {**saved, "losses": self.place.losses}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load saved tensors, each into the memory layout of the current one."""
        self.lesson.restore(_under("state.", tensors))
        saved = _under("optimizer.", tensors)
        self.optimizer.state.clear()
        for name, parameter in (*self.lesson.decayed, *self.lesson.kept):
            for key in {entry.partition(".")[0] for entry in saved if entry.partition(".")[2] == name}:
                value = saved[f"{key}.{name}"]
                if value.shape == parameter.shape and value.dim():
                    # In the parameter's layout: with other strides torch may round differently.
                    value = torch.empty_like(parameter, requires_grad=False, dtype=value.dtype).copy_(value)
                self.optimizer.state[parameter][key] = value
        self.place.losses.copy_(tensors["losses"])


class Checkpoints:
    """The checkpoints of one training, in one folder."""

    def __init__(self, folder: Path, identity: Identity, warn: Callable[[str], None]) -> None:
        self.folder, self.identity, self.warn = folder, identity, warn

    def save(self, moving: Moving) -> None:
        """Write the current state and delete all but the latest ``KEPT`` checkpoints."""
        place = moving.place
        name = f"{place.epoch:06d}-{place.step:08d}"
        content, state = _packed(moving)
        description = {
            "schema": SCHEMA,
            "sha256": hashlib.sha256(content).hexdigest(),
            "identity": self.identity,
            **state,
        }
        write_atomic(self.folder / f"{name}.safetensors", content)
        write_atomic(self.folder / f"{name}.json", json.dumps(description, indent=1))
        for old in self._found()[KEPT:]:
            old.unlink(missing_ok=True)
            old.with_suffix(".safetensors").unlink(missing_ok=True)

    def load(self, moving: Moving) -> bool:
        """Load the latest undamaged checkpoint into ``moving``; False if there is none."""
        damaged: list[str] = []
        for path in self._found():
            try:
                description, tensors = self._read(path)
            except _DamagedError as damage:
                damaged.append(f"checkpoint `{path.stem}` in `{self.folder}` is damaged ({damage})")
                continue
            for text in damaged:
                self.warn(f"{text}: resumed from `{path.stem}`, the one before")
            _unpack(moving, tensors, description)
            return True
        if damaged:
            raise CompressError(
                f"{damaged[0]}, and no other is left",
                "delete the folder to start over, or choose another --out",
            )
        return False

    def _found(self) -> list[Path]:
        """The JSON files, latest first."""
        return sorted(self.folder.glob("[0-9]*-[0-9]*.json"), reverse=True)

    def _read(self, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        try:
            description = json.loads(path.read_text())
            content = path.with_suffix(".safetensors").read_bytes()
        except (OSError, ValueError) as error:
            raise _DamagedError(str(error).splitlines()[0]) from error
        if not isinstance(description, dict) or description.get("schema") != SCHEMA:
            raise _DamagedError("its JSON file is not of this version")
        _refuse_another_run(self.folder, description["identity"], self.identity)
        if hashlib.sha256(content).hexdigest() != description["sha256"]:
            raise _DamagedError("its tensors do not match the checksum in its JSON file")
        try:
            return description, load(content)
        except SafetensorError as error:
            raise _DamagedError(str(error)) from error


def spread(moving: Moving, world: World) -> None:
    """Copy the state of the first process to all others."""
    if world.size > 1:
        content, state = world.from_first(lambda: _packed(moving))
        if not world.first:
            _unpack(moving, load(content), state)


def _packed(moving: Moving) -> tuple[bytes, dict[str, Any]]:
    """The state: its tensors as the bytes of a safetensors file, and the rest as JSON values."""
    place = moving.place
    # Clones, because the file format refuses tensors that share memory (tied weights).
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


def _unpack(moving: Moving, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    moving.restore(tensors)
    moving.scaler.load_state_dict(state["scaler"])
    for key in PLACE:
        setattr(moving.place, key, state[key])
    moving.place.history[:] = [Epoch(**epoch) for epoch in state["history"]]


class _DamagedError(Exception):
    """A checkpoint cannot be used; the message says why."""


def identity_of(lesson: Lesson, data: Data, schedule: Schedule, seed: int) -> Identity:
    """The values that two trainings must share to continue one another, by key, so that an error can name one."""
    return json.loads(  # as read from a file, where tuples are lists
        json.dumps(
            {
                **{f"schedule.{key}": value for key, value in asdict(schedule).items()},
                "seed": seed,
                "data": [data.name, data.classes, data.shape, len(data.train), len(data.test)],
                **lesson.identity(),
            }
        )
    )


def _refuse_another_run(folder: Path, saved: Mapping[str, Any], identity: Identity) -> None:
    key = next((key for key in identity if saved.get(key) != identity[key]), None)
    if key is not None:
        old, new = saved.get(key), identity[key]
        values = f": {old!r} in the checkpoint, {new!r} now" if len(f"{old!r}{new!r}") < 80 else ""
        raise CompressError(
            f"the checkpoints in `{folder}` belong to another training: `{key}` differs{values}",
            "delete the folder to start over, or name another one",
        )


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
