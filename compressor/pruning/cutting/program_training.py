"""Training of a program: steps that ``train()`` switches, and differences that no switch can express.

A network is recorded in evaluation mode and in training mode. Where the two differ in the flags of known layers only
(batch norms, dropout, stochastic depth), these are switched. Anything else that differs (noise, an auxiliary output,
a layer with its own dropout), and a function with its own backward pass, cannot be written down: such a program is
not trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import CompressError
from compressor.pruning.cutting.program_steps import Step, in_module
from compressor.pruning.graph.recording.example import Inputs
from compressor.pruning.graph.recording.layer_calls import TRAINING_FLAGS
from compressor.pruning.graph.recording.operation import (
    COUNTER,
    CUSTOM,
    NO_GRAD,
    Operation,
    Recording,
    needed,
    tensors_in,
)
from compressor.pruning.graph.recording.record import record

FREE = {"batch_norm": (6,), "attention": (6,)}
"""Arguments that may differ: the momentum, which evaluation does not know, and what attention drops."""


@dataclass
class Training:
    """Behaviour of operations in training; ``reason`` says why a program could not be trained."""

    frozen: set[int] = field(default_factory=set)
    without_gradient: set[int] = field(default_factory=set)
    reason: str | None = None

    def described(self, steps: list[Step]) -> dict[str, Any]:
        """The parts of a program's description that say so."""
        numbered = [(number, id(step.operation)) for number, step in enumerate(steps)]
        return {
            "frozen": [number for number, key in numbered if key in self.frozen],
            "without_gradient": [number for number, key in numbered if key in self.without_gradient],
            "not_trained": self.reason,
        }


def training_of(network: nn.Module, inputs: Inputs, recording: Recording) -> Training:
    """Compare a recording in evaluation mode with one in training mode. Sets what attention drops in training."""
    try:
        trained = record(network, inputs, training=True)
    except CompressError as error:
        return Training(reason=f"its network does not run in training mode on its example: {error}")
    if recording.read:
        return Training(
            reason=f"its network's Python reads the values of `{min(recording.read)}`, which training changes"
        )
    found = Training()
    ours, theirs = _operations_of(recording), _operations_of(trained)
    match = _Match(recording, trained)
    for operation, other in zip(ours, theirs, strict=False):
        if not match.equal(operation, other):
            found.reason = (
                f"its network does something else in training: `{other.operator}`{in_module(other)}"
            )
            return found
        flag = TRAINING_FLAGS.get(operation.operator)
        if operation.operator == "attention":
            operation.args = (*operation.args[:6], *other.args[6:7], *operation.args[7:])
        elif flag is not None and not other.args[flag]:
            found.frozen.add(id(operation))
        if other.gradient == CUSTOM:
            found.reason = f"`{other.operator}`{in_module(other)} is in {CUSTOM}"
            return found
        if other.gradient == NO_GRAD:
            found.without_gradient.add(id(operation))
    if len(ours) != len(theirs) or not match.same_result():
        found.reason = "its network returns something else in training"
    return found


def _operations_of(recording: Recording) -> list[Operation]:
    """The operations that lead to a result, without counters of batches, which only training moves."""
    return [
        operation
        for operation in needed(recording.operations, recording.outputs)
        if not any(recording.names.get(id(out), "").endswith(COUNTER) for out in operation.outputs)
    ]


class _Match:
    """Pairs of tensors of two recordings."""

    def __init__(self, one: Recording, other: Recording) -> None:
        self.one, self.other = one, other
        named = {name: key for key, name in other.names.items()}
        self.of = {key: named[name] for key, name in one.names.items()}
        self.of.update(zip(map(id, one.inputs), map(id, other.inputs), strict=True))

    def equal(self, operation: Operation, other: Operation) -> bool:
        """True for the same operator on the same arguments, flags of training aside."""
        if operation.operator != other.operator or len(operation.outputs) != len(other.outputs):
            return False
        free = {TRAINING_FLAGS.get(operation.operator, -1), *FREE.get(operation.operator, ())}
        if len(operation.args) != len(other.args) or operation.kwargs.keys() != other.kwargs.keys():
            return False
        pairs = [
            pair
            for place, pair in enumerate(zip(operation.args, other.args, strict=True))
            if place not in free
        ]
        pairs += [(operation.kwargs[key], other.kwargs[key]) for key in operation.kwargs]
        if not all(self._same(a, b) for a, b in pairs):
            return False
        if any(a.shape != b.shape for a, b in zip(operation.outputs, other.outputs, strict=True)):
            return False
        self.of.update(zip(map(id, operation.outputs), map(id, other.outputs), strict=True))
        return True

    def same_result(self) -> bool:
        """True if both return the same values in the same form."""
        return self._same(self.one.result, self.other.result)

    def _same(self, a: Any, b: Any) -> bool:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return self.of.get(id(a)) == id(b) or self._same_constant(a, b)
        if type(a) is not type(b):
            return False
        if isinstance(a, list | tuple):
            return len(a) == len(b) and all(map(self._same, a, b))
        if isinstance(a, Mapping):
            return a.keys() == b.keys() and all(self._same(a[key], b[key]) for key in a)
        if hasattr(a, "__dict__") and tensors_in(a):
            return self._same(vars(a), vars(b))
        return bool(a == b)

    def _same_constant(self, a: Tensor, b: Tensor) -> bool:
        one, other = (r.constants.get(id(t), t) for r, t in ((self.one, a), (self.other, b)))
        return not (one.is_meta or other.is_meta) and one.shape == other.shape and torch.equal(one, other)
