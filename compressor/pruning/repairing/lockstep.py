"""Teacher and student run side by side from the same recording, for many batches, up to any step and then on.

Both are a list of steps with the numbers of one batch size. The teacher's values are at full width, the student's
have the channels that remain; a value has the same key in both. Only what is still to be read is kept (`frontier`).
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
    """The steps of both networks for one batch size, and after which step a value is not read any more.

    There is one for each operator of the teacher; ``skipped``: those that the student does not need.
    """

    walked: Walk
    remaining: Remaining
    steps: list[Step]
    skipped: frozenset[int]
    layers: Layers
    last: Mapping[int, list[int]]


def recorded(teacher: nn.Module, plan: Plan, inputs: Inputs, batch: int) -> Recorded:
    """The networks recorded with so many images."""
    walked = walk(teacher, with_batch(inputs, batch), whole_heads=plan.whole_heads)
    operations = walked.recording.operations
    of_student = {id(step.operation): step for step in rewritten(walked, plan.slices)}
    # A shuffle of channels takes the teacher several operators, and the student one.
    steps = [of_student.get(id(each), Step(each, each.operator, each.args)) for each in operations]
    skipped = frozenset(place for place, each in enumerate(operations) if id(each) not in of_student)
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
    """Some images: the number of the first among all, how many they are, and how networks run on them."""

    first: int
    images: int
    recorded: Recorded


class Lockstep:
    """Both networks on all batches. ``at``: how many steps each of the two has done, in every batch."""

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
        """Another batch, of which ``first`` is the number of its first image; ``more`` is kept beside its values."""
        images = int(inputs.tensors[0].shape[0])
        if images not in self._recorded:
            new = recorded(self._network, self._plan, self._inputs, images)
            self._require_same(new)
            self._recorded[images] = new
        batch = Batch(first, images, self._recorded[images])
        metas = batch.recorded.walked.recording.inputs
        given = {id(meta): tensor for meta, tensor in zip(metas, inputs.tensors, strict=True)}
        # Each its own: an operator that works in place must not change what the other reads.
        copies = {key: tensor.clone() for key, tensor in given.items()}
        self._frontier.put(len(self._batches), {TEACHER: given, STUDENT: copies, **more})
        self._batches.append(batch)
        self.images += images

    @cached_property
    def total_images(self) -> int:
        """The images of all processes."""
        return int(here().total(torch.tensor(self.images)))

    @property
    def any_recorded(self) -> Recorded:
        """One of the recordings: in what is said of layers they agree."""
        return next(iter(self._recorded.values()))

    def values(self) -> Iterator[tuple[Batch, Values]]:
        """The values of every batch where both networks are now."""
        for number, batch in enumerate(self._batches):
            values = self._frontier.take(number)
            yield batch, values
            self._frontier.put(number, values)

    def advanced(
        self, teacher: int, student: int, watch: Callable[[Batch, int, Tensor], None] | None = None
    ) -> Iterator[tuple[Batch, Values]]:
        """The same after as many steps of the teacher, and of the student, as are told.

        ``watch`` is shown the first argument of every operator that the student runs.
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
        """An argument of a recorded operator as this side has it."""
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
        """Recordings with other batch sizes must be of the same operators."""
        if not self._recorded:
            return
        old = self.any_recorded
        if [step.operator for step in old.steps] != [step.operator for step in new.steps]:
            raise CompressError(
                "the network does different things for different batches",
                "give so many images that all batches are full",
            )


class _Lookup(Mapping[int, Tensor]):
    """Real tensors by the identity of the recorded ones: values of the run, tensors of the network, constants."""

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
    """What the student calls: the recorded function, or the one that takes its place where sizes changed."""
    if step.operator in RENAMED:
        function = function_named(RENAMED[step.operator])
        assert function is not None
        return function
    return step.operation.function
