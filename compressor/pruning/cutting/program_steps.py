"""The recording of a teacher, written again for its student: the same operators with the sizes that remain.

This says two things about a cut. Does the user's own module class, holding the sliced tensors, still run the very
operators that it should? (`same_as`) And if it does not, because a size stands in its Python, what should run
instead? (`rewritten`)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compressor.errors import CompressError
from compressor.pruning.cutting.program_sizes import resized
from compressor.pruning.graph.labelled import Remaining, Walk
from compressor.pruning.graph.recording.operation import VIEWS, Operation, Recording, tensors_in


@dataclass(frozen=True)
class Step:
    """One operator as the student runs it. ``function`` is a name where it is not the recorded one."""

    operation: Operation
    operator: str
    args: tuple[Any, ...]


def rewritten(walked: Walk, slices: Mapping[str, Mapping[int, tuple[int, ...]]]) -> list[Step]:
    """The operators of the student, without those whose results nobody reads."""
    remaining = walked.remaining(slices)
    needed = {id(output) for output in walked.recording.outputs}
    steps: list[Step] = []
    for position in reversed(range(len(walked.recording.operations))):
        operation = walked.recording.operations[position]
        if not operation.in_place and not any(id(output) in needed for output in operation.outputs):
            continue
        operator, args = resized(operation, remaining, position)
        needed.update(id(tensor) for tensor in tensors_in([args, operation.kwargs]))
        steps.append(Step(operation, operator, args))
    return written_back(steps[::-1])


LOOKUPS = ("index_select", "index_copy_")
"""Operators whose third argument is a list of indices here."""


def written_back(steps: list[Step]) -> list[Step]:
    """The same steps, where slices stay views.

    A slice whose remaining channels lie at irregular places is looked up, which copies. What is written into such a
    copy in place is therefore written into its source as well, by a step of its own.
    """
    copies: dict[int, Step] = {}
    memory: dict[int, int] = {}  # a tensor to the one whose memory it shares
    copied: dict[int, int] = {}  # a tensor to the copy that it is a view of
    stale: set[int] = set()
    found: list[Step] = []
    for step in steps:
        operation = step.operation
        for tensor in tensors_in([step.args, operation.kwargs]):
            if copied.get(id(tensor)) in stale:
                raise CompressError(
                    f"`{operation.operator}`{in_module(operation)} reads a slice whose source was written in place "
                    "since, and the channels that stay of it do not lie at regular places",
                    "make the slice after the source is written, or keep that module whole (keep)",
                )
        found.append(step)
        source = operation.args[0] if operation.args else None
        if operation.operator == "slice" and step.operator == "index_select":
            out = id(operation.outputs[0])
            copies[out], copied[out], memory[out] = step, out, out
        elif operation.operator in VIEWS and isinstance(source, Tensor):
            for output in operation.outputs:
                memory[id(output)] = memory.get(id(source), id(source))
                if id(source) in copied:
                    copied[id(output)] = copied[id(source)]
        elif operation.in_place and isinstance(source, Tensor):
            found += _write_backs(source, copies, copied, memory, stale)
    return found


def _write_backs(
    written: Tensor, copies: dict[int, Step], copied: dict[int, int], memory: dict[int, int], stale: set[int]
) -> list[Step]:
    """The steps after ``written`` was written in place: into the source of a copy, into that one's source."""
    steps: list[Step] = []
    fresh: set[int] = set()
    while True:
        own = memory.get(id(written), id(written))
        sources = {copy: memory.get(id(step.args[0]), id(step.args[0])) for copy, step in copies.items()}
        stale |= {copy for copy, source in sources.items() if source == own and copy not in fresh}
        copy = copied.get(id(written))
        if copy is None:
            return steps
        lookup = copies[copy]
        source, dim, places = lookup.args
        steps.append(
            Step(
                Operation(
                    "alias", torch.ops.aten.alias.default, (source,), {}, (source,), lookup.operation.module
                ),
                "index_copy_",
                (source, dim, places, lookup.operation.outputs[0]),
            )
        )
        fresh.add(copy)
        written = source


def in_module(operation: Operation) -> str:
    """`` in `path```, for messages."""
    return f" in `{operation.module}`" if operation.module else ""


TOLD_BY_SHAPES = frozenset(
    "view _unsafe_view reshape _reshape_alias expand split split_with_sizes unsafe_split".split()
)
"""Operators whose results follow from their input and the shapes of the results: Python may write -1, or a number of
parts, where another writes sizes."""


def same_as(walked: Walk, slices: Mapping[str, Mapping[int, tuple[int, ...]]], student: Recording) -> bool:
    """True if the student's own recording is the teacher's with the sizes that remain, operator by operator."""
    teacher = walked.recording
    if len(teacher.operations) != len(student.operations):
        return False
    remaining = walked.remaining(slices)
    ours = {name: tensor for tensor in student.tensors for name in [student.names[id(tensor)]]}
    match = {id(tensor): ours.get(teacher.names[id(tensor)]) for tensor in teacher.tensors}
    match.update(zip(map(id, teacher.inputs), student.inputs, strict=True))
    compare = _Comparison(remaining, match)
    for position, (operation, other) in enumerate(zip(teacher.operations, student.operations, strict=True)):
        if operation.operator != other.operator or len(operation.outputs) != len(other.outputs):
            return False
        shuffle = walked.flow.shuffles.get(position)
        if shuffle is not None and not _even(remaining, *shuffle):
            return False
        match.update(zip(map(id, operation.outputs), other.outputs, strict=True))
        if any(walked.flow.split_of(output) is not None for output in operation.outputs):
            continue  # channels on their way through a shuffle; its last step was looked at above
        _, args = resized(operation, remaining)
        compared = (args[:1], other.args[:1]) if operation.operator in TOLD_BY_SHAPES else (args, other.args)
        if not compare.equal(*compared) or not compare.equal_kwargs(operation.kwargs, other.kwargs):
            return False
        if any(remaining.shape(output) != list(match[id(output)].shape) for output in operation.outputs):  # type: ignore[union-attr]
            return False
    return len(teacher.outputs) == len(student.outputs) and all(
        match.get(id(one)) is other for one, other in zip(teacher.outputs, student.outputs, strict=True)
    )


def _even(remaining: Remaining, split: Any, order: Any) -> bool:
    """True if the remaining split channels are a box again, so that the network's own shuffle still fits."""
    kept = remaining.kept(split.source, split.dim)
    if kept is None or kept.all():
        return True
    rows = kept.reshape(-1, split.sizes[-1])
    return bool((rows == rows[:1]).all())


@dataclass(frozen=True)
class _Comparison:
    remaining: Remaining
    match: dict[int, Tensor | None]

    def equal(self, one: Any, other: Any) -> bool:
        if isinstance(one, Tensor):
            return self.match.get(id(one)) is other
        if isinstance(one, list | tuple):
            return (
                isinstance(other, list | tuple)
                and len(one) == len(other)
                and all(self.equal(a, b) for a, b in zip(one, other, strict=True))
            )
        return bool(one == other)

    def equal_kwargs(self, one: dict[str, Any], other: dict[str, Any]) -> bool:
        return one.keys() == other.keys() and all(self.equal(one[key], other[key]) for key in one)
