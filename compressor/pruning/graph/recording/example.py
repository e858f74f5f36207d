"""The example input of a network: any tree of tensors, and what of it outlives the tensors.

Only shapes and types are kept, as plain JSON values, so that a plan can be applied without the images it was made
with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compressor.errors import CompressError

Given = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""One tensor, a tuple of arguments, or keyword arguments by name. Arguments may be trees of tensors."""


@dataclass(frozen=True)
class Inputs:
    """The arguments of one forward pass."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor among the arguments."""
        return _leaves([*self.args, *self.kwargs.values()])

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """The same tree with every tensor changed."""
        return Inputs(
            tuple(_map(arg, change) for arg in self.args),
            {name: _map(value, change) for name, value in self.kwargs.items()},
        )


def inputs_of(given: Given | Inputs) -> Inputs:
    """The example of a caller in one form; an error if it has no tensor."""
    if isinstance(given, Inputs):
        return given
    if isinstance(given, Tensor):
        given = (given,)
    inputs = Inputs((), dict(given)) if isinstance(given, Mapping) else Inputs(tuple(given), {})
    tensors = inputs.tensors
    if not tensors:
        raise CompressError(
            f"the example input is {type(given).__name__} without a tensor",
            "give a tensor, a tuple of arguments or a dictionary of keyword arguments",
        )
    for tensor in tensors:
        if not tensor.numel():
            raise CompressError(
                f"the example input has the shape {tuple(tensor.shape)}, which holds nothing",
                "every dimension must be at least 1",
            )
    return inputs


def meta_like(inputs: Inputs) -> Inputs:
    """The same shapes and types without data, each tensor of its own."""
    return inputs.map(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta"))


def with_batch(inputs: Inputs, batch: int) -> Inputs:
    """The same with another batch: the first dimension of every tensor that has one."""
    first = inputs.tensors[0].shape[:1]

    def resized(tensor: Tensor) -> Tensor:
        if tensor.shape[:1] != first:
            return tensor
        return torch.empty((batch, *tensor.shape[1:]), dtype=tensor.dtype, device="meta")

    return inputs.map(resized)


def random_like(tensor: Tensor, seed: int) -> Tensor:
    """Random numbers in float64 in the shape of a tensor of floats; zeros for one of whole numbers."""
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def describe(inputs: Inputs) -> Any:
    """Plain JSON values: a tensor becomes ``{"tensor": [shape], "dtype": name}``."""
    return {"args": _describe(list(inputs.args)), "kwargs": _describe(inputs.kwargs)}


def from_description(value: Any) -> Inputs:
    """The meta tensors that a description stands for."""
    return Inputs(tuple(_build(value["args"])), dict(_build(value["kwargs"])))


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _map(item, change) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_map(item, change) for item in value)
    return value


def _leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, list | tuple) else []


def _describe(value: Any) -> Any:
    if isinstance(value, Tensor):
        return {"tensor": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, Mapping):
        return {"dict": {str(name): _describe(item) for name, item in value.items()}}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_describe(item) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CompressError(
        f"an argument of the example is a {type(value).__name__}",
        "give tensors, numbers, strings, and tuples, lists or dictionaries of these",
    )


def _build(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return torch.empty(value["tensor"], dtype=getattr(torch, value["dtype"]), device="meta")
    if "dict" in value:
        return {name: _build(item) for name, item in value["dict"].items()}
    kind = tuple if "tuple" in value else list
    return kind(_build(item) for item in value[kind.__name__])
