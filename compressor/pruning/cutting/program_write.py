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
from compressor.models.copying import in_float64, named_tensors
from compressor.pruning.cutting.program import OWN, Program, counter_beside, referred
from compressor.pruning.cutting.program_operators import RENAMED, function_named
from compressor.pruning.cutting.program_steps import LOOKUPS, Step, in_module, rewritten
from compressor.pruning.cutting.program_training import training_of
from compressor.pruning.cutting.sliced import slice_tensor
from compressor.pruning.graph.labelled import Walk, walk
from compressor.pruning.graph.recording.example import Inputs, describe, random_like, with_batch
from compressor.pruning.graph.recording.layer_calls import CALLS
from compressor.pruning.graph.recording.operation import Recording, tensors_in
from compressor.pruning.graph.recording.record import record
from compressor.pruning.graph.recording.replay import InFloat64, replay
from compressor.pruning.widths.plan import Plan

CONSTANT = "constant"
"""Prefix of tensors that a program has of its own: indices of reordered channels, numbers that stood in Python."""

Coded = tuple[dict[str, Any], dict[str, Tensor]]
"""A description, and the constants that it names."""


def program_of(network: nn.Module, plan: Plan, inputs: Inputs) -> Program:
    """The student of ``network`` by ``plan`` as a program."""
    try:
        description, constants = _for_any_batch(network, plan, inputs)
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


def _for_any_batch(network: nn.Module, plan: Plan, inputs: Inputs) -> Coded:
    """One description for all batches, from those of 2 and 3, and compared with those of 5 and 1."""
    codes = [_coded(network, plan, with_batch(inputs, batch)) for batch in (2, 3, 5)]
    description, constants = _either(codes[0], codes[1])
    _require_same(_filled(description, 5), codes[2][0])
    one = with_batch(inputs, 1)
    alone, _ = _coded(network, plan, one)
    if any(_filled(description, 1)[key] != alone[key] for key in ("steps", "result")):
        _require_equal_outputs(network, one, with_batch(inputs, 2))
    return description, constants


def _require_equal_outputs(network: nn.Module, one: Inputs, two: Inputs) -> None:
    """Other operators at batch 1 (a copy that is spared there) must give what those for more samples give."""
    wide = in_float64(network)
    given = [random_like(tensor, number) for number, tensor in enumerate(one.tensors)]
    twice = [
        torch.cat([tensor, tensor]) if tensor.shape != pair.shape else tensor
        for tensor, pair in zip(given, two.tensors, strict=True)
    ]
    try:
        with torch.no_grad(), InFloat64():
            alone, together = (
                replay(record(wide, inputs), named_tensors(wide), tensors)
                for inputs, tensors in ((one, given), (two, twice))
            )
    except RuntimeError as error:
        raise _DiffersError from error  # it does not run on random inputs, so nothing can be said
    for single, pair in zip(alone, together, strict=True):
        first = pair[:1] if pair.shape[1:] == single.shape[1:] and len(pair) == 2 else pair
        if first.shape != single.shape or not torch.allclose(
            first, single, rtol=1e-6, atol=1e-9, equal_nan=True
        ):
            raise _DiffersError


def _coded(network: nn.Module, plan: Plan, inputs: Inputs) -> Coded:
    walked = walk(network, inputs, whole_heads=plan.whole_heads)
    training = training_of(network, inputs, walked.recording)
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
        **training.described(written),
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
        if step.operator in LOOKUPS and isinstance(args[2], list):
            args[2] = torch.tensor(args[2])
        if step.operator in RENAMED:
            operator = RENAMED[step.operator]
        elif operation.operator in CALLS and operation.function is CALLS[operation.operator]:
            operator = operation.operator
        else:
            operator = str(operation.function)
        if function_named(operator) is None:
            raise CompressError(
                f"`{operation.operator}`{in_module(operation)} cannot be written into a program",
                "a program is needed because the network's own class has a size of a cut layer in its Python; write "
                "that size from a tensor, as in `x.view(len(x), -1, 64)` or `x.shape[1]`, so that the class fits",
            )
        try:
            given = [self.value(arg) for arg in args]
        except CompressError as error:
            raise CompressError(
                f"`{operation.operator}`{in_module(operation)} cannot be written into a program: {error}",
                error.hint,
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
        """The result of the network in its JSON form."""
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
    merged.update({key: one[0][key] for key in ("frozen", "without_gradient", "not_trained")})
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
