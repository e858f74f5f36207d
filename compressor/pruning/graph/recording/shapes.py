"""Shapes of frequent operators' results, worked out by hand: some twenty times faster than asking the meta kernel.

Only speed depends on this table. A function gives the result for its arguments, or None to have it computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

META = torch.device("meta")
_PYTHON = torch._C.DispatchKeySet(torch._C.DispatchKey.Python)


def no_dispatch() -> Any:
    """Tensors made inside are not noted as operators."""
    return torch._C._ExcludeDispatchKeyGuard(_PYTHON)


def empty(shape: Any, like: Tensor) -> Tensor:
    """A contiguous tensor without data."""
    return torch.empty(shape, dtype=like.dtype, device=META)


def alike(x: Tensor) -> Tensor:
    """``torch.empty_like``, which on meta tensors is slow. Sharing a storage does no harm where it has no data."""
    return x.detach() if x.is_contiguous() else torch.empty_like(x)


def fresh(like: Tensor) -> Tensor:
    """A new tensor without data, with the shape and the strides of another, seen by neither net."""
    with no_dispatch():
        return alike(like)


def _unary(x: Any, *args: Any, **kwargs: Any) -> Tensor | None:
    if isinstance(x, Tensor) and x.dtype.is_floating_point and not any(isinstance(a, Tensor) for a in args):
        return alike(x)
    return None


def _binary(a: Any, b: Any = None, *args: Any, **kwargs: Any) -> Tensor | None:
    if not isinstance(a, Tensor) or not a.dtype.is_floating_point:
        return None
    if not isinstance(b, Tensor):
        return alike(a)
    if a.dtype != b.dtype:
        return None
    if a.shape == b.shape:
        return alike(a)
    shape = torch.broadcast_shapes(a.shape, b.shape)
    wider = a if a.shape == shape else b if b.shape == shape else None
    return empty(shape, a) if wider is None else alike(wider)


def _in_place(x: Any, *args: Any, **kwargs: Any) -> Tensor | None:
    return x if isinstance(x, Tensor) else None


def _clone(x: Tensor, *, memory_format: Any = None) -> Tensor:
    return empty(x.shape, x) if memory_format is torch.contiguous_format else alike(x)


def _softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    return empty(x.shape, x)


def _mean(x: Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Tensor | None:
    if not dim or not x.dtype.is_floating_point or kwargs.get("dtype"):
        return None
    gone = {d % x.dim() for d in dim}
    sizes = enumerate(x.shape)
    if keepdim:
        return empty([1 if d in gone else size for d, size in sizes], x)
    return empty([size for d, size in sizes if d not in gone], x)


def _cat(tensors: list[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    dims = first.dim()
    if any(tensor.dim() != dims or tensor.dtype != first.dtype for tensor in tensors):
        return None
    shape = list(first.shape)
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    return empty(shape, first)


SHAPES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(
        """relu sigmoid tanh silu gelu elu selu celu leaky_relu hardtanh hardswish hardsigmoid mish softplus
        exp log sqrt rsqrt reciprocal square neg abs sin cos erf clamp clamp_min clamp_max relu6""".split(),
        _unary,
    ),
    **dict.fromkeys("add sub mul div maximum minimum pow".split(), _binary),
    **dict.fromkeys(
        """add_ sub_ mul_ div_ relu_ sigmoid_ tanh_ silu_ hardtanh_ hardswish_ hardsigmoid_ leaky_relu_
        mish_ elu_ clamp_ clamp_min_ clamp_max_ copy_ fill_ zero_""".split(),
        _in_place,
    ),
    "clone": _clone,
    "_softmax": _softmax,
    **dict.fromkeys(("mean", "sum"), _mean),
    "cat": _cat,
}
