"""Launch `channel_saliency.cu` on tensors on a GPU.

The work tables and their copy on the device depend on shapes only: they are made once and kept. A call fills in the
addresses, which change every step, and queues its launches on torch's current stream. It never waits for the device
and can be captured in a CUDA graph. The order of additions depends on shapes alone, so results repeat exactly.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from compressor.errors import CompressError, UsageError
from compressor.pruning.scoring.kernels import driver
from compressor.pruning.scoring.kernels.builds import SCALAR_OF, Instance, architecture, loaded, why_not_on
from compressor.pruning.scoring.kernels.gates import gate_sums
from compressor.pruning.scoring.kernels.tiles import (
    SLOTS,
    THREADS,
    SumBlock,
    TileLaunch,
    moment_mask,
    moment_order,
)
from compressor.pruning.scoring.kernels.work_tables import Plan, facts_of, planned

__all__ = ["described", "gate_sums", "weight_sums", "why_not"]

NEED_GRADIENTS = moment_mask(("wg", "abs_wg", "wg2"))

Pointers = ctypes.c_uint64 * (2 * SLOTS)

_captured: set[Plan] = (
    set()
)  # a CUDA graph reads the tables of its plans at every replay: never free these plans


def why_not() -> str | None:
    """The reason why the kernel cannot run on the current device, or None."""
    if torch.version.hip is not None:
        return "this torch is built for ROCm, the kernel is written for CUDA"
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    return why_not_on(torch.cuda.current_device())


def described(device: torch.device | str) -> str:
    """The name of this backend and its device, for reports."""
    index = torch.device(device).index
    return f"cuda kernel, {architecture(torch.cuda.current_device() if index is None else index)}"


def weight_sums(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor] | None,
    axes: Sequence[tuple[int, int]],
    moments: Sequence[str],
    into: list[Tensor] | None = None,
) -> list[Tensor]:
    """``[moments, channels]`` in float64 for each (number of a tensor, axis); added to ``into`` if that is given."""
    mask, order = moment_mask(moments), moment_order(moments)
    if mask & NEED_GRADIENTS == 0:
        gradients = None
    elif gradients is None:
        raise UsageError(f"the moments {', '.join(moments)} need gradients, and there are none")
    if not axes:
        return [] if into is None else into
    if into is not None and len(into) != len(axes):
        raise UsageError(f"cannot add {len(axes)} sums to {len(into)} tensors; expected {len(axes)} tensors")
    used = tuple(sorted({number for number, _ in axes}))
    places = {number: place for place, number in enumerate(used)}
    read_weights = [weights[number] for number in used]
    read_gradients = None if gradients is None else [gradients[number] for number in used]
    device = read_weights[0].device
    if device.type != "cuda":
        raise CompressError(f"the kernel reads tensors on a CUDA device; tensor {used[0]} is on {device}")
    with torch.cuda.device(device):
        facts = facts_of(read_weights, read_gradients or read_weights)
        plan = planned(mask, tuple((places[number], axis) for number, axis in axes), facts, used)
        in_order = order == list(range(mask.bit_count()))
        if into is not None and in_order and _is_one_buffer(into, plan.tiles.blocks, len(order)):
            _queue(plan, read_weights, read_gradients, into[0].data_ptr(), accumulate=True)
            return into
        sums = torch.empty(plan.tiles.result_doubles, dtype=torch.float64, device=device)
        _queue(plan, read_weights, read_gradients, sums.data_ptr(), accumulate=False)
        results = _views(sums, plan.tiles.blocks, mask.bit_count())
        if not in_order:
            results = [torch.stack([block[row] for row in order]) for block in results]
    if into is None:
        return results
    torch._foreach_add_(into, results)
    return into


def _views(sums: Tensor, blocks: Sequence[SumBlock], rows: int) -> list[Tensor]:
    if rows == 1:  # takes a third of the time, for the only moment of Taylor scores
        return list(sums.view(1, -1).split_with_sizes([block.channels for block in blocks], 1))
    parts = sums.split_with_sizes([rows * block.channels for block in blocks])
    return [part.view(rows, block.channels) for part, block in zip(parts, blocks, strict=True)]


def _queue(
    plan: Plan, weights: list[Tensor], gradients: list[Tensor] | None, sums: int, *, accumulate: bool
) -> None:
    for place in plan.gathered_weights:
        weights[place] = weights[place].detach().contiguous()
    for place in plan.gathered_gradients if gradients is not None else ():
        assert gradients is not None
        gradients[place] = torch.empty_like(weights[place]).copy_(gradients[place].detach())
    stream = torch.cuda.current_stream()
    if torch.cuda.is_current_stream_capturing():
        _captured.add(plan)
    elif stream.cuda_stream != plan.stream:
        plan.tables.record_stream(stream)
    device, tiles = plan.tables.device, plan.tiles
    partials = torch.empty(tiles.workspace_floats, dtype=torch.float32, device=device)
    jobs, tile_jobs, outputs, block_outputs = map(ctypes.c_void_p, plan.addresses)
    workspace = ctypes.c_void_p(partials.data_ptr())
    instance = Instance(tiles.mask, SCALAR_OF[torch.float32], vector=True)
    for one in tiles.launches:
        instance = Instance(tiles.mask, one.scalar, one.vector)
        arguments = [
            _pointers(one, weights, gradients),
            jobs,
            tile_jobs,
            workspace,
            ctypes.c_int(one.first_tile),
        ]
        kernel = loaded(device.index, instance)["weight_tiles"]
        driver.launch(kernel, one.tiles, THREADS, arguments, stream.cuda_stream)
    if blocks := len(tiles.block_outputs):
        no_flag = ctypes.c_void_p()
        arguments = [
            outputs,
            block_outputs,
            workspace,
            ctypes.c_void_p(sums),
            no_flag,
            ctypes.c_int(accumulate),
        ]
        kernel = loaded(device.index, instance)["weight_totals"]
        driver.launch(kernel, blocks, THREADS, arguments, stream.cuda_stream)


def _pointers(
    one: TileLaunch, weights: list[Tensor], gradients: list[Tensor] | None
) -> ctypes.Array[ctypes.c_uint64]:
    pointers = Pointers()
    count = len(one.numbers)
    pointers[:count] = [weights[place].data_ptr() for place in one.numbers]
    if gradients is not None:
        pointers[SLOTS : SLOTS + count] = [gradients[place].data_ptr() for place in one.numbers]
    return pointers


def _is_one_buffer(into: list[Tensor], blocks: Sequence[SumBlock], moments: int) -> bool:
    """True if these are the blocks of an earlier result in one buffer, so that the kernel can add to them."""
    start = into[0].data_ptr()
    return into[0].device.type == "cuda" and all(
        tensor.dtype is torch.float64
        and tensor.device == into[0].device
        and tensor.shape == (moments, block.channels)
        and tensor.is_contiguous()
        and tensor.data_ptr() == start + tensor.element_size() * block.offset
        for tensor, block in zip(into, blocks, strict=True)
    )
