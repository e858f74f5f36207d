"""The plan of a call, which depends on shapes only: work tables on the device, and which tensors to copy first.

A plan is made once for a set of shapes, layouts and moments, and kept. Making it waits for the device, so it cannot
be part of a CUDA graph.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.errors import CompressError
from compressor.pruning.scoring.kernels.builds import SCALAR_OF, described
from compressor.pruning.scoring.kernels.tiles import (
    LOAD_BYTES,
    Weight,
    WeightTiles,
    memory_order,
    weight_tiles,
)

Facts = tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device]
Pair = tuple[Facts, Facts, bool]
"""A weight, its gradient (or again the weight, where no gradient is read), whether both allow 16-byte loads."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The parts of a call that depend on shapes only."""

    tiles: WeightTiles
    tables: Tensor  # jobs, tile_jobs, outputs and block_outputs, concatenated
    addresses: tuple[int, ...]
    stream: int  # on which the tables were made
    gathered_weights: frozenset[int]  # positions of the tensors that must be copied before they are read
    gathered_gradients: frozenset[int]


def facts_of(weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> tuple[Pair, ...]:
    """Everything that a plan depends on. Plain tuples: this runs in every step for some hundred tensors."""
    try:
        return tuple(
            [
                (
                    (w.shape, w.stride(), w.dtype, w.device),
                    (g.shape, g.stride(), g.dtype, g.device),
                    (w.data_ptr() | g.data_ptr()) % LOAD_BYTES == 0,
                )
                for w, g in zip(weights, gradients, strict=True)
            ]
        )
    except RuntimeError as error:
        raise CompressError(f"the kernel reads dense tensors only: {error}") from error


@functools.lru_cache(maxsize=32)
def planned(
    mask: int, axes: tuple[tuple[int, int], ...], pairs: tuple[Pair, ...], numbers: tuple[int, ...]
) -> Plan:
    """The plan for these tensors; ``axes`` counts them from 0, errors call them by their ``numbers``."""
    if torch.cuda.is_current_stream_capturing():
        raise CompressError(
            "cannot capture this call in a CUDA graph: there are no work tables for these shapes yet",
            "call once with the same shapes before the capture",
        )
    weights, gathered_weights, gathered_gradients = [], set(), set()
    device = pairs[0][0][3]
    for place, (weight, gradient, may_pack) in enumerate(pairs):
        _require_readable(numbers[place], weight, gradient, device)
        shape, strides = tuple(weight[0]), weight[1]
        try:
            memory_order(shape, strides, "")
        except CompressError:  # holes or overlaps: a copy without them is read
            gathered_weights.add(place)
            strides = torch.empty(shape, device="meta").stride()
        if not _same_order(shape, strides, gradient[1]):
            gathered_gradients.add(place)
        both_copied = place in gathered_weights and place in gathered_gradients
        weights.append(Weight(shape, strides, SCALAR_OF[weight[2]], may_pack or both_copied))
    tiles = weight_tiles(weights, axes, mask)
    pieces = [table.tobytes() for table in (tiles.jobs, tiles.tile_jobs, tiles.outputs, tiles.block_outputs)]
    starts, content = [], bytearray()
    for piece in pieces:
        starts.append(len(content))
        content += piece + bytes(-len(piece) % LOAD_BYTES)
    tables = torch.frombuffer(content or bytearray(LOAD_BYTES), dtype=torch.uint8).to(device)
    return Plan(
        tiles,
        tables,
        tuple(tables.data_ptr() + start for start in starts),
        torch.cuda.current_stream().cuda_stream,
        frozenset(gathered_weights),
        frozenset(gathered_gradients),
    )


def _require_readable(number: int, weight: Facts, gradient: Facts, device: torch.device) -> None:
    if weight[2] not in SCALAR_OF or weight[3] != device or device.type != "cuda":
        raise CompressError(
            f"the kernel reads float32, float16 and bfloat16 on one CUDA device, here {device}; "
            f"tensor {number} is {described(*weight)}"
        )
    if (gradient[0], gradient[2], gradient[3]) != (weight[0], weight[2], weight[3]):
        raise CompressError(
            f"tensor {number} is {described(*weight)}, its gradient {described(*gradient)}: expected the same"
        )


def _same_order(shape: Sequence[int], strides: Sequence[int], others: Sequence[int]) -> bool:
    # The stride of an axis of size 1 has no meaning; libraries set various numbers there for 1 x 1 convolutions.
    return all(size == 1 or a == b for size, a, b in zip(shape, strides, others, strict=True))
