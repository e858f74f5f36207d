"""Run a recording again on real tensors: the same operators, in the same order, on the network's own weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from compressor.graph.recording.record import Operation, Recording, tensors_in

Step = Callable[[Operation, int, tuple[Any, ...], dict[str, Any]], Any]
"""Runs one operation: what was recorded, its number, and the real arguments."""

BATCH_STATISTICS = 5
"""Where ``batch_norm`` has its training flag."""


def plainly(operation: Operation, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the operation as it was recorded."""
    return operation.function(*args, **kwargs)


def replay(
    recording: Recording,
    tensors: Mapping[str, Tensor],
    inputs: list[Tensor],
    step: Step = plainly,
    *,
    batch_statistics: bool = False,
) -> list[Tensor]:
    """What the network gives for these inputs, as a list of the tensors in its result.

    ``tensors`` are the network's own, by name. ``batch_statistics``: batch norms as in training.
    """
    real: dict[int, Tensor] = {id(meta): tensors[recording.names[id(meta)]] for meta in recording.tensors}
    real.update(recording.constants)
    real.update(zip(map(id, recording.inputs), inputs, strict=True))
    device = inputs[0].device
    for number, operation in enumerate(recording.operations):
        args = substituted(operation.args, real)
        kwargs = {name: substituted(value, real) for name, value in operation.kwargs.items()}
        if "device" in kwargs:
            kwargs["device"] = device
        if operation.operator == "batch_norm" and batch_statistics:
            args = (*args[:BATCH_STATISTICS], True, *args[BATCH_STATISTICS + 1 :])
        outputs = tensors_in(step(operation, number, args, kwargs))
        real.update(zip(map(id, operation.outputs), outputs, strict=True))
    return [real[id(output)] for output in recording.outputs]


def substituted(value: Any, real: Mapping[int, Tensor]) -> Any:
    """Arguments with the real tensors in place of the recorded ones."""
    if isinstance(value, Tensor):
        return real.get(id(value), value)
    if isinstance(value, list | tuple):
        items = [substituted(item, real) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return torch.device("cpu") if isinstance(value, torch.device) else value
