"""Activation times gradient on a GPU: one number per sample and channel, without writing the product to memory.

Both are read once and in place: as images (the numbers of a channel are contiguous), or as channels last and tokens
(neighbouring numbers belong to different channels). Other layouts are copied first.
"""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from compressor.errors import CompressError, UsageError
from compressor.pruning.scoring.kernels import driver
from compressor.pruning.scoring.kernels.builds import SCALAR_OF, Instance, described, loaded
from compressor.pruning.scoring.kernels.tiles import THREADS, aligned, gate_tiles, moment_mask
from compressor.pruning.scoring.kernels.work_tables import facts_of

ANY_MOMENTS = moment_mask(
    ("wg",)
)  # the gate kernels ignore it; Taylor scores have compiled this build already
_tiles = functools.lru_cache(maxsize=512)(gate_tiles)  # a network has some hundred activations


def gate_sums(activation: Tensor, gradient: Tensor, channel: int) -> Tensor:
    """``[samples, channels]`` in float32: activation times gradient, summed over every other dimension."""
    _require_alike(activation, gradient)
    if not 0 < channel % max(activation.dim(), 1) < activation.dim():
        raise UsageError(
            f"an activation of shape {tuple(activation.shape)} has no channel axis {channel} after axis 0"
        )
    channel %= activation.dim()
    device, scalar = activation.device, SCALAR_OF[activation.dtype]
    with torch.cuda.device(device):
        a, g = _as_read(activation.detach(), gradient.detach(), channel, scalar)
        tiles = _tiles(tuple(a.shape), a.stride(), channel, scalar, aligned(a.data_ptr(), g.data_ptr()))
        kernels = loaded(device.index, Instance(ANY_MOMENTS, scalar, tiles.vector))
        stream = torch.cuda.current_stream().cuda_stream
        out = torch.empty((a.shape[0], a.shape[channel]), dtype=torch.float32, device=device)
        partials = torch.empty(tiles.partial_floats, dtype=torch.float32, device=device)
        target = _pointer(partials if tiles.partial_floats else out)
        if tiles.columns:
            kernel = kernels["gate_columns"]
            numbers = [
                _long(tiles.positions),
                _long(tiles.channels),
                _int(tiles.splits),
                _int(tiles.channel_tiles),
            ]
        else:
            kernel = kernels["gate_rows"]
            numbers = [_long(tiles.rows), _long(tiles.inner), _int(tiles.channels), _int(tiles.splits)]
        if tiles.blocks:
            driver.launch(kernel, tiles.blocks, THREADS, [_pointer(a), _pointer(g), target, *numbers], stream)
        if tiles.total_blocks:
            numbers = [_long(out.numel()), _long(tiles.total_splits), _long(tiles.channels)]
            arguments = [target, _pointer(out), *numbers]
            driver.launch(kernels["gate_totals"], tiles.total_blocks, THREADS, arguments, stream)
    return out


def _require_alike(activation: Tensor, gradient: Tensor) -> None:
    ((a, g, _),) = facts_of([activation], [gradient])
    if a[2] not in SCALAR_OF or a[3].type != "cuda":
        raise CompressError(
            f"the kernel reads float32, float16 and bfloat16 on a CUDA device; the activation is {described(*a)}"
        )
    if (a[0], a[2], a[3]) != (g[0], g[2], g[3]):
        raise CompressError(
            f"the activation is {described(*a)}, its gradient {described(*g)}: expected the same"
        )


def _as_read(activation: Tensor, gradient: Tensor, channel: int, scalar: int) -> tuple[Tensor, Tensor]:
    try:
        _tiles(tuple(activation.shape), activation.stride(), channel, scalar, True)
    except CompressError:  # holes, overlaps, or samples that are not one after another in memory
        activation = activation.contiguous()
    if gradient.stride() != activation.stride():
        gradient = torch.empty_like(activation).copy_(gradient)
    return activation, gradient


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


_long, _int = ctypes.c_longlong, ctypes.c_int
