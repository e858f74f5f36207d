"""Names, types and shapes of a network's tensors: enough to tell a plan's own teacher from any other network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from compressor.errors import CompressError

Look = tuple[str, tuple[int, ...]]
"""Number type and shape of a tensor."""
Architecture = Mapping[str, Look]


def registered(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, tied ones once. Plain attributes are excluded: a forward pass may create some."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def architecture_of(network: nn.Module) -> dict[str, Look]:
    """Type and shape of every parameter and buffer."""
    return {name: look_of(tensor) for name, tensor in registered(network).items()}


def look_of(tensor: Tensor) -> Look:
    """Type and shape of one tensor."""
    return str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)


def require_same(found: Architecture, expected: Architecture, who: str, hint: str | None = None) -> None:
    """Raise an error that names the first tensor that differs, and how; return if there is none."""
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
        raise CompressError(f"{who} has an unexpected tensor `{extra}`, {dtype} of shape {shape}", hint)


def to_json(architecture: Architecture) -> dict[str, Any]:
    """Plain JSON values."""
    return {name: [dtype, *shape] for name, (dtype, shape) in architecture.items()}
