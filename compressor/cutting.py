"""Cut: a network and a plan give a new, really smaller network. The one given is never changed.

The copy is made with the sliced tensors in place of the full ones, so that shared modules and tied
weights stay shared and nothing is copied that does not stay. Afterwards the attributes that repeat a
tensor's size (``out_channels`` and the like) are set from the tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from compressor.budget.plan import Plan
from compressor.errors import CompressError


def cut(network: nn.Module, plan: Plan) -> nn.Module:
    """The network with only the channels that the plan keeps."""
    tensors = _named_tensors(network)
    unknown = next((name for name in plan.slices if name not in tensors), None)
    if unknown is not None:
        raise CompressError(f"cannot cut `{unknown}`: the network has no such tensor")
    student = _copy_with(network, lambda name, tensor: _sliced(name, tensor, plan))
    for name, module in student.named_modules():
        for kind, resize in RESIZE.items():
            if isinstance(module, kind):
                resize(module, plan.blocks.get(f"{name}.weight"))
    return student


def silence(network: nn.Module, plan: Plan) -> nn.Module:
    """The network at full size, with everything that belongs to a removed channel set to zero.

    A removed channel's own weights, bias, norm and statistics are zero, and so is every weight that
    reads it. This is what the cut network must equal exactly: the reference for ``check_cut``.
    """
    return _copy_with(network, lambda name, tensor: _silenced(name, tensor, plan))


def _sliced(name: str, tensor: Tensor, plan: Plan) -> Tensor:
    for axis, kept in plan.slices.get(name, {}).items():
        size = tensor.shape[axis] if axis < tensor.dim() else 0
        if not kept or min(kept) < 0 or max(kept) >= size:
            found = (
                f"the plan keeps index {min(kept) if min(kept) < 0 else max(kept)}"
                if kept
                else "the plan keeps 0"
            )
            raise CompressError(f"cannot cut `{name}`: axis {axis} has {size} indices, {found}")
        tensor = tensor.index_select(axis, torch.tensor(kept, device=tensor.device))
    return tensor


def _silenced(name: str, tensor: Tensor, plan: Plan) -> Tensor:
    for axis, kept in plan.slices.get(name, {}).items():
        stays = torch.zeros(tensor.shape[axis], dtype=torch.bool, device=tensor.device)
        stays[list(kept)] = True
        shape = [-1 if dim == axis else 1 for dim in range(tensor.dim())]
        tensor = tensor.where(stays.view(shape), torch.zeros((), dtype=tensor.dtype, device=tensor.device))
    return tensor


def _copy_with(network: nn.Module, change: Callable[[str, Tensor], Tensor]) -> nn.Module:
    memo: dict[int, Any] = {}
    with torch.no_grad():
        for name, tensor in _named_tensors(network).items():
            changed = change(name, tensor).detach()
            changed = changed.clone() if changed.data_ptr() == tensor.data_ptr() else changed
            if isinstance(tensor, nn.Parameter):
                changed = nn.Parameter(changed, tensor.requires_grad)
            memo[id(tensor)] = changed
    return copy.deepcopy(network, memo)


def _named_tensors(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _resize_convolution(module: Any, blocks: int | None) -> None:
    if blocks is not None:
        module.groups = blocks
    first, second = module.weight.shape[:2]
    wide, narrow = ("in_channels", "out_channels") if module.transposed else ("out_channels", "in_channels")
    setattr(module, wide, first)
    setattr(module, narrow, second * module.groups)


def _resize_linear(module: Any, blocks: int | None) -> None:
    module.out_features, module.in_features = module.weight.shape


def _resize_batch_norm(module: Any, blocks: int | None) -> None:
    known = module.weight if module.weight is not None else module.running_mean
    if known is not None:
        module.num_features = known.shape[0]


def _resize_prelu(module: Any, blocks: int | None) -> None:
    module.num_parameters = module.weight.shape[0]


RESIZE: dict[type, Callable[[Any, int | None], None]] = {
    nn.modules.conv._ConvNd: _resize_convolution,
    nn.Linear: _resize_linear,
    nn.modules.batchnorm._BatchNorm: _resize_batch_norm,
    nn.PReLU: _resize_prelu,
}
