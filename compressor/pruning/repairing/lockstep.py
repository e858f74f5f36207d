"""Run teacher and student in lockstep from the same recording, for many batches, up to any step and then further.

Both are a list of steps, recorded for one batch size. The teacher's values are at full width, the student's have the
remaining channels; a value has the same key in both. Only values that a later step reads are kept (`frontier`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import CompressError
from compressor.models.copying import named_tensors
from compressor.pruning.cutting.program_operators import RENAMED, function_named
from compressor.pruning.cutting.program_steps import LOOKUPS, Step, rewritten
from compressor.pruning.graph.labelled import Remaining, Walk, walk
from compressor.pruning.graph.recording.example import Inputs, with_batch
from compressor.pruning.graph.recording.operation import tensors_in
from compressor.pruning.graph.recording.replay import substituted
from compressor.pruning.repairing.fitted_layers import Layers, layers_of
from compressor.pruning.repairing.frontier import Frontier, Values
from compressor.pruning.widths.plan import Plan
from compressor.training.distributed.world import here

TEACHER, STUDENT = "teacher", "student"


@dataclass(frozen=True)
class Recorded:
    """The steps of both networks for one batch size; ``last``: step -> the values that no later step reads.

    There is one step for each operator of the teacher; ``skipped``: the steps that the student does not need.
    """

    walked: Walk
    remaining: Remaining
    steps: list[Step]
    skipped: frozenset[int]
    layers: Layers
    last: Mapping[int, list[int]]


def recorded(teacher: nn.Module, plan: Plan, inputs: Inputs, batch: int) -> Recorded:
    """Record the networks with ``batch`` images."""
    walked = walk(teacher, with_batch(inputs, batch), whole_heads=plan.whole_heads)
    operations = walked.recording.operations
    of_student = {id(step.operation): step for step in rewritten(walked, plan.slices)}
    # A channel shuffle is several operators in the teacher, and one in the student.
    steps = [
        of_student.get(id(operation), Step(operation, operation.operator, operation.args))
        for operation in operations
    ]
    skipped = frozenset(
        place for place, operation in enumerate(operations) if id(operation) not in of_student
    )
    read: dict[int, int] = {}
    for number, step in enumerate(steps):
        operation = step.operation
        used = tensors_in([operation.args, operation.kwargs, list(step.args), list(operation.outputs)])
        read.update((id(tensor), number) for tensor in used)
    stay = {
        *map(id, walked.recording.tensors),
        *walked.recording.constants,
        *map(id, walked.recording.outputs),
    }
    last: dict[int, list[int]] = {}
    for key, number in read.items():
        if key not in stay:
            last.setdefault(number, []).append(key)
    layers = layers_of(walked, steps, plan.slices, skipped)
    return Recorded(walked, walked.remaining(plan.slices), steps, skipped, layers, last)


@dataclass(frozen=True)
class Batch:
    """A batch: the number of its first image among all, its number of images, and its recording."""

    first: int
    images: int
    recorded: Recorded


class Lockstep:
    """Both networks on all batches. ``_at``: the number of steps that each of the two has done, in every batch."""

    def __init__(
        self, teacher: nn.Module, student: nn.Module, plan: Plan, inputs: Inputs, frontier: Frontier
    ):
        self._network, self._plan, self._inputs, self._frontier = teacher, plan, inputs, frontier
        self.tensors = {TEACHER: named_tensors(teacher), STUDENT: named_tensors(student)}
        self._recorded: dict[int, Recorded] = {}
        self._batches: list[Batch] = []
        self._at = {TEACHER: 0, STUDENT: 0}
        self.images = 0

    def add(self, inputs: Inputs, first: int, more: Values) -> None:
        """Add a batch; ``first`` is the number of its first image; ``more`` is stored with its values."""
        images = int(inputs.tensors[0].shape[0])
        if images not in self._recorded:
            new = recorded(self._network, self._plan, self._inputs, images)
            self._require_same(new)
            self._recorded[images] = new
        batch = Batch(first, images, self._recorded[images])
        metas = batch.recorded.walked.recording.inputs
        by_key = {id(meta): tensor for meta, tensor in zip(metas, inputs.tensors, strict=True)}
        # Each network has its own copy: an in-place operator must not change the other's input.
        copies = {key: tensor.clone() for key, tensor in by_key.items()}
        self._frontier.put(len(self._batches), {TEACHER: by_key, STUDENT: copies, **more})
        self._batches.append(batch)
        self.images += images

    @cached_property
    def total_images(self) -> int:
        """The number of images of all processes."""
        return int(here().total(torch.tensor(self.images)))

    @property
    def any_recorded(self) -> Recorded:
        """One of the recordings: all have the same layers."""
        return next(iter(self._recorded.values()))

    def values(self) -> Iterator[tuple[Batch, Values]]:
        """The values of every batch at the current steps of both networks."""
        for number, batch in enumerate(self._batches):
            values = self._frontier.take(number)
            yield batch, values
            self._frontier.put(number, values)

    def advanced(
        self, teacher: int, student: int, watch: Callable[[Batch, int, Tensor], None] | None = None
    ) -> Iterator[tuple[Batch, Values]]:
        """Run both networks up to these step numbers, batch by batch, and yield the values.

        ``watch`` is called with the first argument of every operator that the student runs.
        """
        for batch, values in self.values():
            for side, until in ((TEACHER, teacher), (STUDENT, student)):
                for number in range(self._at[side], until):
                    if side == STUDENT and number in batch.recorded.skipped:
                        continue
                    self._run(batch, number, side, values[side], watch if side == STUDENT else None)
            yield batch, values
        self._at = {TEACHER: teacher, STUDENT: student}

    def read(self, recorded: Recorded, value: Any, side: str, values: Mapping[int, Tensor]) -> Any:
        """The real value of a recorded operator's argument on this side."""
        return substituted(value, _Lookup(recorded, self.tensors[side], values))

    def _run(
        self,
        batch: Batch,
        number: int,
        side: str,
        values: dict[int, Tensor],
        watch: Callable[[Batch, int, Tensor], None] | None,
    ) -> None:
        recorded = batch.recorded
        step = recorded.steps[number]
        operation = step.operation
        if side == TEACHER:
            function, args = operation.function, operation.args
        else:
            function, args = _function_of(step), step.args
        real = _Lookup(recorded, self.tensors[side], values)
        called = substituted(tuple(args), real)
        options = {name: substituted(value, real) for name, value in operation.kwargs.items()}
        device = next(iter(self.tensors[side].values())).device
        if "device" in options:
            options["device"] = device
        if watch is not None and called and isinstance(called[0], Tensor):
            watch(batch, number, called[0])
        if side == STUDENT and step.operator in LOOKUPS and isinstance(called[2], list):
            called = (*called[:2], torch.tensor(called[2], device=device), *called[3:])
        results = tensors_in(function(*called, **options))
        values.update(zip(map(id, operation.outputs), results, strict=True))
        for key in recorded.last.get(number, ()):
            values.pop(key, None)

    def _require_same(self, new: Recorded) -> None:
        """Raise an error if recordings with different batch sizes have different operators."""
        if not self._recorded:
            return
        old = self.any_recorded
        if [step.operator for step in old.steps] != [step.operator for step in new.steps]:
            raise CompressError(
                "cannot repair: the network runs different operators for different batch sizes",
                "give a number of images for which all batches are full",
            )


class _Lookup(Mapping[int, Tensor]):
    """Real tensors by the id of the recorded ones: values of the run, tensors of the network, constants."""

    def __init__(self, recorded: Recorded, own: Mapping[str, Tensor], values: Mapping[int, Tensor]) -> None:
        self._names = recorded.walked.recording.names
        self._constants = recorded.walked.recording.constants
        self._own, self._values = own, values

    def __getitem__(self, key: int) -> Tensor:
        if key in self._values:
            return self._values[key]
        if key in self._names:
            return self._own[self._names[key]]
        return self._constants[key]

    def __iter__(self) -> Iterator[int]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _function_of(step: Step) -> Callable[..., Any]:
    """The function that the student calls: the recorded one, or its replacement where sizes changed."""
    if step.operator in RENAMED:
        function = function_named(RENAMED[step.operator])
        assert function is not None
        return function
    return step.operation.function
