"""The work of each block of `channel_saliency.cu`, from shapes and strides alone.

A dense tensor is read in memory order, as a matrix: rows run along the slowest axis. The sums of a tile's rows serve
that axis; the sums of its columns serve every other axis, because the channel of column n along an axis of size C and
stride s is ``(n // s) % C``. Tiles do not depend on the device, so neither do the bits of a result. This module does
not import torch; the layouts of ``JOB`` and ``OUTPUT`` are those of the structs in the kernel's source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compressor.errors import CompressError, UsageError, unknown_name

MOMENTS = ("wg", "abs_wg", "wg2", "w2", "abs_w")
SCALARS = {"float32": 0, "float16": 1, "bfloat16": 2}
SCALAR_BYTES = (4, 2, 2)
THREADS = 256
WARPS = 8
TILE_ROWS = 32
TILE_COLUMNS = 512
SLOTS = 240
LOAD_BYTES = 16

JOB = np.dtype(
    [(name, np.int64) for name in "rows columns row_partials column_partials".split()]
    + [(name, np.int32) for name in "row_tiles column_tiles first_tile slot".split()]
)
OUTPUT = np.dtype(
    [(name, np.int64) for name in "partials moment_stride run outers channels sums".split()]
    + [(name, np.int32) for name in "first_block unused".split()]
)


@dataclass(frozen=True)
class Weight:
    """A tensor and, where a moment needs it, a gradient with the same strides (in elements)."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    scalar: int
    aligned: bool


@dataclass(frozen=True)
class TileLaunch:
    """One launch of `weight_tiles`: ``numbers[slot]`` is the tensor whose pointers go into that slot."""

    scalar: int
    vector: bool
    numbers: tuple[int, ...]
    first_tile: int
    tiles: int


@dataclass(frozen=True)
class SumBlock:
    """The place of the sums of one axis of one tensor: [moments, channels] doubles from ``offset``."""

    number: int
    axis: int
    channels: int
    offset: int


@dataclass(frozen=True)
class WeightTiles:
    """The tables of one call; all but ``launches`` and ``blocks`` are uploaded as they are."""

    mask: int
    jobs: NDArray[np.void]
    tile_jobs: NDArray[np.int32]
    outputs: NDArray[np.void]
    block_outputs: NDArray[np.int32]
    launches: tuple[TileLaunch, ...]
    blocks: tuple[SumBlock, ...]
    workspace_floats: int
    result_doubles: int


@dataclass(frozen=True)
class _Matrix:
    """A tensor in memory order, as a matrix; ``row_axis`` is None where it is one row."""

    rows: int
    columns: int
    row_axis: int | None
    row_tiles: int
    column_tiles: int


def moment_mask(moments: Sequence[str]) -> int:
    """The mask that the kernel is compiled with."""
    if not moments:
        raise UsageError("there is no moment to compute", "name at least one of " + ", ".join(MOMENTS))
    for moment in moments:
        if moment not in MOMENTS:
            raise unknown_name("moment", moment, MOMENTS)
    return sum({1 << MOMENTS.index(moment) for moment in moments})


def moment_order(moments: Sequence[str]) -> list[int]:
    """The row of each requested moment in a result, which has moments in the order of ``MOMENTS``."""
    held = [name for name in MOMENTS if name in moments]
    return [held.index(moment) for moment in moments]


def aligned(*pointers: int) -> bool:
    """True if 16-byte loads may start at these addresses."""
    return all(pointer % LOAD_BYTES == 0 for pointer in pointers)


def weight_tiles(weights: Sequence[Weight], axes: Sequence[tuple[int, int]], mask: int) -> WeightTiles:
    """The tables for the sums of these (tensor number, axis) pairs; only tensors named there are read."""
    matrices: dict[int, _Matrix] = {}
    for number, axis in axes:
        _require_axis(weights, number, axis)
        if number not in matrices:
            matrices[number] = _matrix(weights[number], f"tensor {number}")
    kinds = mask.bit_count()
    row_partials, column_partials, workspace = _partials(weights, matrices, axes, kinds)

    # One job per tensor; a launch has at most SLOTS tensors, of one number type and one width of loads.
    jobs: list[tuple[int, ...]] = []
    launches: list[TileLaunch] = []
    counts: list[int] = []
    first_tile = 0
    for (scalar, vector), numbers in _instances(weights, matrices).items():
        for start in range(0, len(numbers), SLOTS):
            slots = tuple(numbers[start : start + SLOTS])
            launch_tile = first_tile
            for slot, number in enumerate(slots):
                matrix = matrices[number]
                partials = (row_partials.get(number, -1), column_partials.get(number, -1))
                tiles = (matrix.row_tiles, matrix.column_tiles)
                jobs.append((matrix.rows, matrix.columns, *partials, *tiles, first_tile, slot))
                counts.append(matrix.row_tiles * matrix.column_tiles)
                first_tile += counts[-1]
            launches.append(TileLaunch(scalar, vector, slots, launch_tile, first_tile - launch_tile))

    # One output per (tensor, axis): a warp adds the partial sums of one channel.
    outputs: list[tuple[int, ...]] = []
    blocks: list[SumBlock] = []
    warps_of: list[int] = []
    sums = first_block = 0
    for number, axis in axes:
        weight, matrix = weights[number], matrices[number]
        channels = weight.shape[axis]
        by_rows = _by_rows(weight, matrix, axis)
        first = (row_partials if by_rows else column_partials)[number]
        where = _stretches(weight, matrix, axis) if by_rows else _strides(weight, matrix, axis)
        outputs.append((first, *where, channels, sums, first_block, 0))
        blocks.append(SumBlock(number, axis, channels, sums))
        warps_of.append(-(-channels // WARPS))
        sums += kinds * channels
        first_block += warps_of[-1]
    return WeightTiles(
        mask,
        np.array(jobs, JOB),
        np.repeat(np.arange(len(jobs), dtype=np.int32), counts),
        np.array(outputs, OUTPUT),
        np.repeat(np.arange(len(outputs), dtype=np.int32), warps_of),
        tuple(launches),
        tuple(blocks),
        workspace,
        sums,
    )


def _require_axis(weights: Sequence[Weight], number: int, axis: int) -> None:
    if not 0 <= number < len(weights):
        raise UsageError(f"there is no tensor {number} among {len(weights)}")
    if not 0 <= axis < len(weights[number].shape):
        raise UsageError(f"tensor {number} of shape {weights[number].shape} has no axis {axis}")


def memory_order(shape: Sequence[int], strides: Sequence[int], what: str) -> list[int]:
    """The axes of size 2 and more, slowest first; an error unless the tensor's memory is dense."""
    order = sorted((axis for axis, size in enumerate(shape) if size != 1), key=lambda axis: -strides[axis])
    expected = 1
    for axis in reversed(order):
        if 0 not in shape and strides[axis] != expected:
            raise CompressError(
                f"{what} of shape {tuple(shape)} has strides {tuple(strides)}: expected dense memory",
                "use `tensor.contiguous()`",
            )
        expected *= shape[axis]
    return order


def _matrix(weight: Weight, what: str) -> _Matrix:
    order = memory_order(weight.shape, weight.strides, what)
    size = math.prod(weight.shape)
    if size == 0:
        return _Matrix(0, 0, None, 0, 0)
    # A vector is one row: with one row per number, 511 of 512 columns of a tile would be empty.
    row_axis = order[0] if len(order) > 1 else None
    rows = 1 if row_axis is None else weight.shape[row_axis]
    columns = size // rows
    return _Matrix(rows, columns, row_axis, -(-rows // TILE_ROWS), -(-columns // TILE_COLUMNS))


def _by_rows(weight: Weight, matrix: _Matrix, axis: int) -> bool:
    return axis == matrix.row_axis or weight.shape[axis] == 1


def _partials(
    weights: Sequence[Weight], matrices: dict[int, _Matrix], axes: Sequence[tuple[int, int]], kinds: int
) -> tuple[dict[int, int], dict[int, int], int]:
    rows: dict[int, int] = {}
    columns: dict[int, int] = {}
    workspace = 0
    for number, axis in axes:
        matrix = matrices[number]
        by_rows = _by_rows(weights[number], matrix, axis)
        held = rows if by_rows else columns
        if number not in held:
            held[number] = workspace
            lines = matrix.rows * matrix.column_tiles if by_rows else matrix.columns * matrix.row_tiles
            workspace += kinds * lines
    return rows, columns, workspace


def _stretches(weight: Weight, matrix: _Matrix, axis: int) -> tuple[int, int, int]:
    """(moment stride, run, outers) of an axis that the row sums serve: itself, or one of size 1, which is all rows."""
    stride = matrix.rows * matrix.column_tiles
    return (stride, matrix.column_tiles if axis == matrix.row_axis else stride, 1)


def _strides(weight: Weight, matrix: _Matrix, axis: int) -> tuple[int, int, int]:
    """(moment stride, run, outers) of an axis that the column sums serve."""
    if matrix.columns == 0:
        return (0, 0, 0)
    step = weight.strides[axis]
    outers = matrix.columns // (step * weight.shape[axis])
    return (matrix.columns * matrix.row_tiles, step * matrix.row_tiles, outers)


def _instances(weights: Sequence[Weight], matrices: dict[int, _Matrix]) -> dict[tuple[int, bool], list[int]]:
    instances: dict[tuple[int, bool], list[int]] = {}
    for number, matrix in matrices.items():
        if matrix.rows == 0:
            continue
        weight = weights[number]
        vector = weight.aligned and matrix.columns * SCALAR_BYTES[weight.scalar] % LOAD_BYTES == 0
        instances.setdefault((weight.scalar, vector), []).append(number)
    return dict(sorted(instances.items()))


GATE_CHUNK = 4096
GATE_POSITIONS = 256
_TOTALS_PER_BLOCK = THREADS


@dataclass(frozen=True)
class GateTiles:
    """The arguments of `gate_rows` or `gate_columns`, and of `gate_totals` where ``partial_floats`` is not 0."""

    columns: bool
    vector: bool
    blocks: int
    samples: int
    rows: int
    inner: int
    positions: int
    channels: int
    splits: int
    channel_tiles: int
    total_splits: int
    partial_floats: int
    total_blocks: int


def gate_tiles(
    shape: Sequence[int], strides: Sequence[int], channel: int, scalar: int, aligned: bool
) -> GateTiles:
    """The work of summing activation x gradient over everything but the samples (axis 0) and the channels."""
    if not 0 < channel < len(shape):
        raise UsageError(f"an activation of shape {tuple(shape)} has no channel axis {channel} after axis 0")
    order = memory_order(shape, strides, "an activation")
    samples, channels = shape[0], shape[channel]
    if samples > 1 and 0 not in shape and order[0] != 0:
        raise CompressError(
            f"an activation of strides {tuple(strides)} does not store one sample after another",
            "use `tensor.contiguous()`",
        )
    others = [axis for axis in order if axis not in (0, channel)]
    if 0 in shape or shape[channel] == 1:
        outer, inner = 1, math.prod(shape[axis] for axis in others)
    else:
        behind = order.index(channel)
        outer = math.prod(shape[axis] for axis in order[:behind] if axis != 0)
        inner = math.prod(shape[axis] for axis in order[behind + 1 :])
    columns = inner == 1
    line = channels if columns else inner
    splits = max(1, -(-outer // GATE_POSITIONS) if columns else -(-inner // GATE_CHUNK))
    channel_tiles = -(-channels * SCALAR_BYTES[scalar] // (LOAD_BYTES * 32)) if columns else 1
    rows = 0 if columns else samples * outer * channels
    total_splits = splits if columns else outer * splits
    count = samples * channels
    return GateTiles(
        columns=columns,
        vector=aligned and line * SCALAR_BYTES[scalar] % LOAD_BYTES == 0,
        blocks=samples * splits * channel_tiles if columns else -(-rows * splits // WARPS),
        samples=samples,
        rows=rows,
        inner=inner,
        positions=outer if columns else 0,
        channels=channels,
        splits=splits,
        channel_tiles=channel_tiles,
        total_splits=total_splits,
        partial_floats=count * total_splits if total_splits > 1 else 0,
        total_blocks=-(-count // _TOTALS_PER_BLOCK) if total_splits > 1 else 0,
    )
