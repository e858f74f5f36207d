"""The user's own module class with sliced tensors, and the attributes that repeat a tensor's size set from these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import CompressError
from compressor.models.copying import copy_with
from compressor.pruning.widths.plan import Plan


def sliced(network: nn.Module, plan: Plan) -> nn.Module:
    """A copy of the network that holds only what the plan keeps. Whether it still runs is another question."""
    student = copy_with(network, lambda name, tensor: _owned(slice_tensor(name, tensor, plan), tensor))
    with _still(student):
        for name, module in student.named_modules():
            for kind, resize in RESIZE.items():
                if isinstance(module, kind):
                    resize(module, plan.blocks.get(f"{name}.weight"))
    return student


@contextmanager
def _still(network: nn.Module) -> Iterator[None]:
    """In evaluation mode for a while: in training, to look at a spectrally normalised weight is to change it."""
    flags = [(module, module.training) for module in network.modules()]
    for module, _ in flags:
        module.training = False
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def slice_tensor(name: str, tensor: Tensor, plan: Plan) -> Tensor:
    """The part of one tensor that the plan keeps."""
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
    return tensor.detach()


def _owned(changed: Tensor, tensor: Tensor) -> Tensor:
    """Never the teacher's own memory."""
    return changed.clone() if changed.data_ptr() == tensor.data_ptr() else changed


def _resize_convolution(module: Any, blocks: int | None) -> None:
    if blocks is not None:
        module.groups = blocks
    first, second = module.weight.shape[:2]
    wide, narrow = ("in_channels", "out_channels") if module.transposed else ("out_channels", "in_channels")
    setattr(module, wide, first)
    setattr(module, narrow, second * module.groups)


def _resize_linear(module: Any, blocks: int | None) -> None:
    module.out_features, module.in_features = module.weight.shape


def _resize_norm(module: Any, blocks: int | None) -> None:
    known = module.weight if module.weight is not None else module.running_mean
    if known is not None:
        module.num_features = known.shape[0]


def _resize_group_norm(module: Any, blocks: int | None) -> None:
    if module.weight is not None:
        module.num_channels = module.weight.shape[0]
    if blocks is not None:
        module.num_groups = blocks


def _resize_layer_norm(module: Any, blocks: int | None) -> None:
    if module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)


def _resize_prelu(module: Any, blocks: int | None) -> None:
    module.num_parameters = module.weight.shape[0]


def _resize_embedding(module: Any, blocks: int | None) -> None:
    module.embedding_dim = module.weight.shape[1]


def _resize_recurrent(module: Any, blocks: int | None) -> None:
    module.input_size = module.weight_ih_l0.shape[1]
    if module.proj_size == 0:
        module.hidden_size = module.weight_hh_l0.shape[1]
    module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def _resize_cell(module: Any, blocks: int | None) -> None:
    module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[1]


RESIZE: dict[type, Callable[[Any, int | None], None]] = {
    nn.modules.conv._ConvNd: _resize_convolution,
    nn.Linear: _resize_linear,
    nn.modules.batchnorm._NormBase: _resize_norm,
    nn.GroupNorm: _resize_group_norm,
    nn.LayerNorm: _resize_layer_norm,
    nn.RMSNorm: _resize_layer_norm,
    nn.PReLU: _resize_prelu,
    nn.Embedding: _resize_embedding,
    nn.RNNBase: _resize_recurrent,
    nn.RNNCellBase: _resize_cell,
}
"""Modules that repeat the size of their tensors in attributes."""
