"""Convert tensors to the bytes of a safetensors file, and back with the same memory order.

The format stores one order of dimensions. With weights in another order (``channels_last``) other kernels run, whose
sums round differently, so the order is stored separately.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from compressor.base.strict_json import DamageError
from compressor.errors import CompressError
from compressor.models.architecture_hash import registered


def bytes_of(tensors: Mapping[str, Tensor]) -> bytes:
    """The content of a safetensors file."""
    try:
        return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    except (ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        raise CompressError(f"cannot write the weights: {type(error).__name__}: {error}") from error


def tensors_of(content: bytes, layout: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, in their original memory order."""
    tensors = load(content)
    for name, order in layout.items():
        if name not in tensors or tensors[name].dim() != len(order):
            raise DamageError(f"it has no tensor `{name[:80]}` of {len(order)} dimensions")
    # Copies, so that each tensor has its own memory, allocated by torch.
    return {
        name: _empty(tensor, layout.get(name, range(tensor.dim()))).copy_(tensor)
        for name, tensor in tensors.items()
    }


def order_of(tensor: Tensor) -> tuple[int, ...] | None:
    """The memory order of a tensor's dimensions, or None if it is the default one."""
    if tensor.stride() == _empty(tensor, range(tensor.dim()), "meta").stride():
        return None
    order = tuple(sorted(range(tensor.dim()), key=tensor.stride, reverse=True))
    return order if _empty(tensor, order, "meta").stride() == tensor.stride() else None


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    """True if two networks hold exactly the same tensors, including buffers that are not in a state dict."""
    first, second = ({**network.state_dict(), **registered(network)} for network in (one, other))
    return first.keys() == second.keys() and all(
        tensor.dtype == second[name].dtype
        and tensor.shape == second[name].shape
        and torch.equal(_bits(tensor), _bits(second[name]))
        for name, tensor in first.items()
    )


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _empty(like: Tensor, order: Any, device: str = "cpu") -> Tensor:
    """An empty tensor of this shape whose dimensions have this memory order, the longest stride first."""
    shape = [like.shape[dim] for dim in order]
    back = sorted(range(len(shape)), key=list(order).__getitem__)
    return torch.empty(shape, dtype=like.dtype, device=device).permute(back)
