"""From a network and a plan to a program: the rewritten steps as JSON values, and the tensors that they name.

The network is recorded with two batch sizes; numbers in which the two recordings differ grow with the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import CompressError
from compressor.models.copying import named_tensors
from compressor.pruning.cutting.program import OWN, RENAMED, Program, counter_beside, function_named, referred
from compressor.pruning.cutting.program_steps import Step, rewritten
from compressor.pruning.cutting.sliced import slice_tensor
from compressor.pruning.graph.labelled import Walk, walk
from compressor.pruning.graph.recording.example import Inputs, describe, with_batch
from compressor.pruning.graph.recording.layer_calls import CALLS
from compressor.pruning.graph.recording.record import Recording, tensors_in
from compressor.pruning.widths.plan import Plan

CONSTANT = "constant"
"""Prefix of tensors that a program has of its own: indices of reordered channels, numbers that stood in Python."""

Coded = tuple[dict[str, Any], dict[str, Tensor]]
"""A description, and the constants that it names."""


def program_of(network: nn.Module, plan: Plan, inputs: Inputs) -> Program:
    """The student of ``network`` by ``plan`` as a program."""
    try:
        codes = [_coded(network, plan, with_batch(inputs, batch)) for batch in (2, 3, 5)]
        description, constants = _either(codes[0], codes[1])
        _require_same(_filled(description, 5), codes[2][0])
    except (_DiffersError, CompressError):
        description, constants = _coded(network, plan, inputs)
        description["batch"] = inputs.tensors[0].shape[0]
    used = referred(description["steps"], "tensor")
    used |= {counter_beside(name) for name in used if name.endswith("running_mean")}
    kept: dict[str, Tensor] = {}
    memo: dict[int, Tensor] = {}
    for name, tensor in named_tensors(network).items():
        if name in used:
            small = slice_tensor(name, tensor, plan)
            small = small.clone() if small.data_ptr() == tensor.data_ptr() else small
            if isinstance(tensor, nn.Parameter):
                small = nn.Parameter(small, tensor.requires_grad)
            kept[name] = memo.setdefault(id(tensor), small)
    device = next(iter(kept.values())).device
    for name, tensor in constants.items():
        kept[name] = tensor.clone().to(device)
    return Program(description, kept).train(network.training)


def _coded(network: nn.Module, plan: Plan, inputs: Inputs) -> Coded:
    walked = walk(network, inputs, whole_heads=plan.whole_heads)
    coder = _Coder(walked)
    written = rewritten(walked, plan.slices)
    steps = [coder.step(step) for step in written]
    result = coder.result(walked.recording.result)
    description = {
        "inputs": len(walked.recording.inputs),
        "batch": None,
        "example": describe(inputs),
        "steps": steps,
        "layers": coder.layers(walked.recording, written),
        "result": result,
    }
    return description, coder.constants


class _Coder:
    """Writes steps as JSON values; tensors are numbered in the order in which they appear."""

    def __init__(self, walked: Walk) -> None:
        self.names, self.given = walked.recording.names, walked.recording.constants
        floats = (tensor.dtype for tensor in walked.recording.tensors if tensor.is_floating_point())
        self.dtype = next(floats, torch.get_default_dtype())
        self.numbers = {id(tensor): number for number, tensor in enumerate(walked.recording.inputs)}
        self.constants: dict[str, Tensor] = {}

    def step(self, step: Step) -> list[Any]:
        """``[operator, arguments, options, results]``."""
        operation = step.operation
        args = list(step.args)
        if step.operator == "index_select" and isinstance(args[2], list):
            args[2] = torch.tensor(args[2])
        if step.operator in RENAMED:
            operator = RENAMED[step.operator]
        elif operation.operator in CALLS and operation.function is CALLS[operation.operator]:
            operator = operation.operator
        else:
            operator = str(operation.function)
        if function_named(operator) is None:
            where = f" in `{operation.module}`" if operation.module else ""
            raise CompressError(
                f"`{operation.operator}`{where} cannot be written into a program",
                "the network's own class fixes a size in Python; keep that module whole (--keep)",
            )
        try:
            given = [self.value(arg) for arg in args]
        except CompressError as error:
            where = f" in `{operation.module}`" if operation.module else ""
            raise CompressError(
                f"`{operation.operator}`{where} cannot be written into a program: {error}", error.hint
            ) from error
        options = {key: self.value(item) for key, item in operation.kwargs.items() if key != "pin_memory"}
        results = [self.numbers.setdefault(id(out), len(self.numbers)) for out in operation.outputs]
        return [operator, given, options, results]

    def layers(self, recording: Recording, steps: Sequence[Step]) -> list[list[Any]]:
        """``[path, the step after which it ends, the value it was given or None, the value it gave out]`` of each.

        What a layer was given is known to its last step only, or else not held for it: memory is for the network.
        """
        number_of = {id(step.operation): number for number, step in enumerate(steps)}
        last, ends = -1, []  # after so many operators, the last of them that was written
        for operation in recording.operations:
            ends.append(last)
            last = number_of.get(id(operation), last)
        ends.append(last)
        found: list[list[Any]] = []
        for layer in recording.layers:
            after, result = ends[layer.after], self.numbers.get(id(layer.result))
            if after < 0 or result is None:
                continue  # nothing of it was written
            read = tensors_in(steps[after].args)
            given = self.numbers.get(id(layer.given)) if any(layer.given is one for one in read) else None
            found.append([layer.path, after, given, result])
        return found

    def value(self, value: Any) -> Any:
        """An argument in its JSON form."""
        if isinstance(value, Tensor):
            if id(value) in self.names:
                return {"tensor": self.names[id(value)]}
            if id(value) in self.numbers:
                return {"value": self.numbers[id(value)]}
            value = self.given.get(id(value), value)
            if value.device.type == "meta":
                raise CompressError(
                    "a tensor from outside the network is used in it", "register it as a buffer"
                )
            taken = {*self.names.values(), *self.constants}
            name = next(name for name in (f"{CONSTANT}.{n}" for n in count()) if name not in taken)
            self.constants[name] = value
            return {"tensor": name}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        if value is self.dtype:
            return {OWN: ""}
        if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
            kind = {torch.dtype: "dtype", torch.memory_format: "memory_format", torch.layout: "layout"}
            return {kind[type(value)]: str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {"device": ""}
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": str(value)}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise CompressError(f"an operator has a {type(value).__name__} among its arguments")

    def result(self, value: Any) -> Any:
        """What the network returns, in its JSON form."""
        if isinstance(value, Mapping):
            return {"dict": {str(name): self.result(item) for name, item in value.items()}}
        if type(value) is tuple:
            return {"tuple": [self.result(item) for item in value]}
        if type(value) is list:
            return [self.result(item) for item in value]
        if isinstance(value, Tensor) or value is None or isinstance(value, bool | int | float | str):
            return self.value(value)
        raise CompressError(
            f"the network returns a {type(value).__name__}, and its own class fixes a size in Python",
            "return tensors, tuples, lists or dictionaries, or keep the module that fixes the size (--keep)",
        )


class _DiffersError(Exception):
    """Two recordings that are not one program for every batch."""


def _either(one: Coded, other: Coded) -> Coded:
    """One description from those for batches of 2 and of 3: numbers that differ grow with the batch."""
    constants = one[1]
    if constants.keys() != other[1].keys() or any(
        not torch.equal(t, other[1][n]) for n, t in constants.items()
    ):
        raise _DiffersError
    merged = {
        key: _line(one[0][key], other[0][key]) for key in ("inputs", "batch", "steps", "layers", "result")
    }
    return {**merged, "example": one[0]["example"]}, constants


def _line(two: Any, three: Any) -> Any:
    if type(two) is not type(three):
        raise _DiffersError
    if isinstance(two, list):
        if len(two) != len(three):
            raise _DiffersError
        return [_line(a, b) for a, b in zip(two, three, strict=True)]
    if isinstance(two, dict):
        if two.keys() != three.keys():
            raise _DiffersError
        return {key: _line(two[key], three[key]) for key in two}
    if type(two) is int and two != three:
        growth = three - two
        return {"per_batch": [growth, two - 2 * growth]}
    if two != three:
        raise _DiffersError
    return two


def _filled(value: Any, batch: int) -> Any:
    """A description with the numbers of one batch size."""
    if isinstance(value, list):
        return [_filled(item, batch) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"per_batch"}:
            growth, constant = value["per_batch"]
            return growth * batch + constant
        return {key: _filled(item, batch) for key, item in value.items()}
    return value


def _require_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Numbers that grow otherwise than with the batch (with its square) are found by a third one."""
    if any(one[key] != other[key] for key in ("steps", "result")):
        raise _DiffersError
