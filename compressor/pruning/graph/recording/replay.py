"""Run a recording again on real tensors: the same operators, in the same order, on the network's own weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from compressor.pruning.graph.recording.layer_calls import TRAINING_FLAGS
from compressor.pruning.graph.recording.operation import Operation, Recording, tensors_in

Step = Callable[[Operation, int, tuple[Any, ...], dict[str, Any]], Any]
"""Runs one operation: what was recorded, its number, and the real arguments."""


def plainly(operation: Operation, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the operation as it was recorded."""
    return operation.function(*args, **kwargs)


def replay(
    recording: Recording,
    tensors: Mapping[str, Tensor],
    inputs: list[Tensor],
    step: Step = plainly,
    *,
    batch_statistics: bool | Collection[str] = False,
) -> list[Tensor]:
    """The output of the network for these inputs, as a list of the tensors in it.

    ``tensors`` are the network's own, by name. ``batch_statistics``: batch norms as in training,
    all or those in modules of these names.
    """
    last = _last_readers(recording)
    real: dict[int, Tensor] = {id(meta): tensors[recording.names[id(meta)]] for meta in recording.tensors}
    real.update(recording.constants)
    real.update(zip(map(id, recording.inputs), inputs, strict=True))
    device = inputs[0].device
    for number, operation in enumerate(recording.operations):
        args = substituted(operation.args, real)
        kwargs = {name: substituted(value, real) for name, value in operation.kwargs.items()}
        if "device" in kwargs:
            kwargs["device"] = device
        if operation.operator == "batch_norm" and (
            batch_statistics if isinstance(batch_statistics, bool) else operation.module in batch_statistics
        ):
            flag = TRAINING_FLAGS["batch_norm"]
            args = (*args[:flag], True, *args[flag + 1 :])
        outputs = tensors_in(step(operation, number, args, kwargs))
        real.update(zip(map(id, operation.outputs), outputs, strict=True))
        for gone in last.get(number, ()):
            real.pop(gone, None)
    return [real[id(output)] for output in recording.outputs]


def _last_readers(recording: Recording) -> dict[int, list[int]]:
    """After each operation, the tensors made on the way that nothing reads any more: their memory is needed."""
    last: dict[int, int] = {}
    for number, operation in enumerate(recording.operations):
        for tensor in (*tensors_in(operation.args), *tensors_in(operation.kwargs), *operation.outputs):
            last[id(tensor)] = number
    stay = {*map(id, recording.tensors), *recording.constants, *map(id, recording.outputs)}
    gone: dict[int, list[int]] = {}
    for tensor_id, number in last.items():
        if tensor_id not in stay:
            gone.setdefault(number, []).append(tensor_id)
    return gone


def substituted(value: Any, real: Mapping[int, Tensor]) -> Any:
    """Arguments with the real tensors in place of the recorded ones."""
    if isinstance(value, Tensor):
        return real.get(id(value), value)
    if isinstance(value, list | tuple):
        items = [substituted(item, real) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return torch.device("cpu") if isinstance(value, torch.device) else value


class InFloat64(TorchDispatchMode):
    """Conversions to a narrower type, which forward passes have for mixed precision, stay in float64."""

    _should_skip_dynamo = classmethod(
        lambda cls: False
    )  # as for the recorder: spares loading torch's compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("dtype") in (torch.float32, torch.float16, torch.bfloat16):
            kwargs = {**kwargs, "dtype": torch.float64}
        return func(*args, **kwargs)
