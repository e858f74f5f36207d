"""``plan.json``: the description of a student folder, fully validated when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.base.strict_json import (
    DamageError,
    entries,
    items,
    parsed,
    read_bytes,
    sealed,
    text,
    truth,
    unsealed,
    whole,
)
from compressor.errors import CompressError, UsageError
from compressor.models import architecture_hash as architecture
from compressor.models.architecture_hash import Architecture
from compressor.models.names import ModelSource
from compressor.pruning.cutting.program_check import KINDS, check_example
from compressor.pruning.widths.plan import Plan

SCHEMA = 2
PLAN = "plan.json"
WEIGHTS = "weights.safetensors"
PROGRAM = "program.json"
FILES = {"module": (WEIGHTS,), "program": (WEIGHTS, PROGRAM)}
"""The files beside the plan, for each form of a student."""

MOST_DIMENSIONS = 64
HEXADECIMAL = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class PlanFile:
    """The source and tensor shapes of the teacher, the cut, and the hashes of the other files.

    ``layout``: for a tensor whose memory order is not that of its dimensions, its order: with another order, other
    kernels run, whose sums round differently.
    """

    form: str
    source: ModelSource
    plan: Plan
    input_shape: tuple[int, ...]
    about: Mapping[str, Any]
    layout: Mapping[str, tuple[int, ...]]
    files: Mapping[str, str]

    @property
    def teacher(self) -> Architecture:
        """Types and shapes of the teacher's tensors before the cut."""
        return self.source.tensors or {}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with a hash over all of them."""
        return sealed(
            {
                "schema": SCHEMA,
                "form": self.form,
                "model": self.source.to_dict(),
                "input_shape": list(self.input_shape),
                "about": dict(self.about),
                "files": dict(self.files),
                "layout": {name: list(order) for name, order in self.layout.items()},
                "teacher": architecture.to_json(self.teacher),
                **self.plan.to_dict(),
            }
        )

    @staticmethod
    def from_dict(value: Any) -> PlanFile:
        """Read the values that ``to_dict`` wrote; anything else raises a DamageError."""
        value = unsealed(entries(value, "it", ("sha256", "schema", *_PARTS)))
        form = text(value["form"], "`form`", FILES)
        teacher = _teacher(value["teacher"])
        files = entries(value["files"], "`files`", FILES[form])
        for name, digest in files.items():
            if len(text(digest, f"the hash of {name}")) != 64 or not HEXADECIMAL.issuperset(digest):
                raise DamageError(f"the hash of {name} is not a SHA-256 in hexadecimal digits")
        return PlanFile(
            form,
            _source(value["model"], teacher),
            _plan({key: value[key] for key in _CUT}, teacher),
            tuple(whole(size, "`input_shape`", 1) for size in items(value["input_shape"], "`input_shape`")),
            entries(value["about"], "`about`"),
            {name: _order(order, name) for name, order in entries(value["layout"], "`layout`").items()},
            files,
        )


_CUT = "costs widths blocks inputs earlier slices".split()
_PARTS = ["form", "model", "input_shape", "about", "files", "layout", "teacher", *_CUT]


def read_plan(path: Path) -> PlanFile:
    """Read a ``plan.json``, given the file or its folder."""
    file = path / PLAN if path.is_dir() else path
    if not file.exists():
        raise UsageError(f"no file `{file}`", "a run writes it to runs/NAME/student")
    content = read_bytes(file)
    try:
        value = parsed(content)
        schema = whole(entries(value, "it").get("schema"), "`schema`")
        if schema == SCHEMA:
            return PlanFile.from_dict(value)
    except ValueError as error:
        raise CompressError(f"`{file}` is damaged: {error}", "copy it again from its original") from error
    raise CompressError(
        f"`{file}` has schema {schema}, this version reads {SCHEMA}",
        "a newer version wrote it: update this one"
        if schema > SCHEMA
        else "write it again with this version",
    )


def _teacher(value: Any) -> dict[str, architecture.Look]:
    looks = {}
    for name, look in entries(value, "`teacher`").items():
        where = f"`{name[:80]}` of the teacher"
        dtype, *shape = items(look, where) or [None]
        sizes = tuple(whole(size, f"a size of {where}") for size in shape)
        looks[name] = (text(dtype, f"the precision of {where}", KINDS["dtype"]), sizes)
    return looks


def _source(value: Any, teacher: Architecture) -> ModelSource:
    model = entries(value, "`model`", ("name", "classes"))
    classes = model["classes"]
    return ModelSource(
        text(model["name"], "the name of the model"),
        None if classes is None else whole(classes, "the number of classes", 1),
        teacher,
    )


def _plan(value: Any, teacher: Architecture) -> Plan:
    entries(value, "the plan", _CUT)
    inputs, earlier = value["inputs"], value["earlier"]
    if inputs is not None:
        example = {key: item for key, item in entries(inputs, "`inputs`").items() if key != "whole_heads"}
        check_example(example)
        truth(inputs.get("whole_heads", False), "`whole_heads`")
    pairs = {
        name: {
            key: _pair(pair, f"`{key[:80]}` in `{name}`")
            for key, pair in entries(value[name], f"`{name}`").items()
        }
        for name in ("costs", "widths")
    }
    blocks = entries(value["blocks"], "`blocks`")
    return Plan(
        {name: _axes(axes, name, teacher) for name, axes in entries(value["slices"], "`slices`").items()},
        {name: whole(number, f"`{name[:80]}` in `blocks`", 1) for name, number in blocks.items()},
        pairs["widths"],
        pairs["costs"],
        inputs,
        None if earlier is None else _plan(earlier, teacher),
    )


def _pair(value: Any, where: str) -> tuple[int, int]:
    before, after = (whole(number, where) for number in items(value, where, 2))
    return before, after


def _axes(value: Any, name: str, teacher: Architecture) -> dict[int, tuple[int, ...]]:
    where = f"`{name[:80]}` in `slices`"
    axes: dict[int, tuple[int, ...]] = {}
    for key, kept in entries(value, where).items():
        axis = int(text(key, f"an axis of {where}", _AXES))
        size = _size(name, axis, teacher)
        indices = tuple(
            whole(item, f"an index of axis {axis} of {where}", 0, size - 1) for item in items(kept, where)
        )
        if not indices or len(set(indices)) != len(indices):
            raise DamageError(f"axis {axis} of {where} keeps {'an index twice' if indices else 'nothing'}")
        axes[axis] = indices
    return axes


def _size(name: str, axis: int, teacher: Architecture) -> int:
    """The number of indices of an axis; tensors that are plain attributes are checked when they are cut."""
    if name not in teacher:
        return 2**31
    shape = teacher[name][1]
    if axis >= len(shape):
        raise DamageError(f"`slices` names axis {axis} of `{name[:80]}`, whose shape is {shape}")
    return shape[axis]


_AXES = frozenset(map(str, range(MOST_DIMENSIONS)))


def _order(value: Any, name: str) -> tuple[int, ...]:
    order = tuple(whole(dim, f"`{name[:80]}` in `layout`", 0, MOST_DIMENSIONS) for dim in items(value, name))
    if sorted(order) != list(range(len(order))):
        raise DamageError(f"`{name[:80]}` in `layout` is not an order of its dimensions")
    return order
