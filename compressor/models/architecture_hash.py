"""What the tensors of a network are called and look like: enough to tell a plan's own teacher from any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from compressor.errors import CompressError

Look = tuple[str, tuple[int, ...]]
"""Precision and shape."""
Architecture = Mapping[str, Look]


def registered(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, tied ones once. Plain attributes are not counted: a forward pass may leave some."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def architecture_of(network: nn.Module) -> dict[str, Look]:
    """The look of every parameter and buffer."""
    return {name: look_of(tensor) for name, tensor in registered(network).items()}


def look_of(tensor: Tensor) -> Look:
    """The look of one tensor."""
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)


def require_same(found: Architecture, expected: Architecture, who: str, hint: str | None = None) -> None:
    """Return if the two are alike; else name the first tensor that differs, and how."""
    for name, (dtype, shape) in expected.items():
        if name not in found:
            raise CompressError(f"{who} has no tensor `{name}`, expected {dtype} of shape {shape}", hint)
        other_dtype, other = found[name]
        if other != shape:
            raise CompressError(f"{who} does not fit: `{name}` has shape {other}, expected {shape}", hint)
        if other_dtype != dtype:
            raise CompressError(f"{who} does not fit: `{name}` is {other_dtype}, expected {dtype}", hint)
    extra = next((name for name in found if name not in expected), None)
    if extra is not None:
        dtype, shape = found[extra]
        raise CompressError(f"{who} has a tensor `{extra}`, {dtype} of shape {shape}, too many", hint)


def to_json(architecture: Architecture) -> dict[str, Any]:
    """Plain JSON values."""
    return {name: [dtype, *shape] for name, (dtype, shape) in architecture.items()}
