"""Channel sums by plain torch: the first choice on a CPU, and the fallback on any device without the kernel.

Memory is the limit, so a weight and its gradient are read once, in memory order, in blocks that fit into a cache: the
product of a block is formed in a small buffer and summed there along both sides; no tensor of full size is created.
Sums within a block are in float32 (torch adds pairwise), sums of blocks in float64; blocks depend on the shape alone,
so a result does not depend on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.pruning.scoring.kernels.reference import MOMENTS, NEED_GRADIENTS

# Elements of a block. With smaller blocks the 10 µs of Python per block count; a larger product leaves the cache.
CPU_BLOCK = 1 << 18
# On an accelerator the cache does not matter: there the block only limits the memory of a product.
DEVICE_BLOCK = 1 << 24
# Rows of 2^k elements share a few cache sets when they are summed along columns; 16 more elements prevent this.
# Measured on rows of 1024: 9.6 µs instead of 4.3 for a quarter of a megabyte.
PADDING = 16


def weight_sums(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor] | None,
    axes: Sequence[tuple[int, int]],
    moments: Sequence[str],
) -> list[Tensor]:
    """One float64 tensor ``[moments, channels]`` for each (number of a tensor, axis) of ``axes``."""
    matrices: dict[torch.dtype, dict[int, list[int]]] = {}
    vectors: dict[torch.dtype, list[tuple[int, int]]] = {}
    sums: dict[tuple[int, int], Tensor] = {}
    for number, axis in axes:
        weight = weights[number]
        if not weight.numel():
            sums[number, axis] = _exact(weight.new_zeros(len(moments), weight.shape[axis]))
        elif weight.numel() == weight.shape[axis]:
            vectors.setdefault(weight.dtype, []).append((number, axis))
        else:
            matrices.setdefault(weight.dtype, {}).setdefault(number, []).append(axis)
    with torch.no_grad():
        for wanted in matrices.values():
            sums.update(_of_matrices(weights, gradients, wanted, moments))
        for pairs in vectors.values():
            sums.update(_of_vectors(weights, gradients, pairs, moments))
    return [sums[pair] for pair in axes]


def gate_sums(activation: Tensor, gradient: Tensor, channel: int) -> Tensor:
    """``[samples, channels]``: activation times gradient, summed over every dimension but the first and ``channel``."""
    order = [0, *sorted(range(1, activation.dim()), key=activation.stride, reverse=True)]
    a, g = activation.permute(order).contiguous(), gradient.permute(order).contiguous()
    place = order.index(channel)
    samples, channels = a.shape[0], a.shape[place]
    before, after = math.prod(a.shape[1:place]), math.prod(a.shape[place + 1 :])
    work = _working(a)
    sums = torch.zeros(samples, channels, dtype=work, device=a.device)
    if not a.numel():
        return sums
    # Without a dimension between sample and channel, a row is one channel of one sample; else it is a whole sample.
    rows = samples * channels if before == 1 else samples
    shape = (rows, after) if before == 1 else (rows, before, channels, after)
    over = (1,) if before == 1 else (1, 3)
    a, g, out = a.view(shape), g.view(shape), sums.view(rows) if before == 1 else sums
    step = min(rows, max(1, _block(a) // (a.numel() // rows)))
    full = [a.new_empty((step, *shape[1:]), dtype=work) for _ in range(1 if a.dtype == work else 3)]
    with torch.no_grad():
        for x, y, into in zip(a.split(step), g.split(step), out.split(step), strict=True):
            product, *spare = full if len(x) == step else [buffer[: len(x)] for buffer in full]
            x, y = _widened(x, y, spare)
            torch.sum(torch.mul(x, y, out=product), over, out=into)
    return sums


@dataclass(frozen=True)
class _Walk:
    """A tensor in memory order, as a matrix cut into blocks: each is some whole rows, or a part of one row."""

    order: list[int]
    rows: int
    columns: int
    heights: list[int]
    widths: list[int]

    def matrix(self, tensor: Tensor) -> Tensor:
        return tensor.permute(self.order).reshape(self.rows, self.columns)


def _walk(tensor: Tensor) -> _Walk:
    order = list(range(tensor.dim()))
    if not tensor.is_contiguous():
        order.sort(key=tensor.stride, reverse=True)
    rows = tensor.shape[order[0]]
    columns = tensor.numel() // rows
    block = _block(tensor)
    return _Walk(order, rows, columns, _lengths(rows, max(1, block // columns)), _lengths(columns, block))


def _lengths(whole: int, piece: int) -> list[int]:
    return [piece] * (whole // piece) + [whole % piece] * (whole % piece > 0)


def _of_matrices(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor] | None,
    wanted: Mapping[int, Sequence[int]],
    moments: Sequence[str],
) -> dict[tuple[int, int], Tensor]:
    """Sums of matrices of one type. All blocks write into one array, which is converted to float64 at the end.

    A network has some dozens of small tensors, and a few more calls of torch for each would cost as much as the sums.
    """
    count = len(moments)
    walks = {number: _walk(weights[number]) for number in wanted}
    sizes = [size for walk in walks.values() for size in _sizes(walk, count)]
    first = weights[next(iter(wanted))]
    parts = first.new_empty(sum(sizes), dtype=_working(first))
    into, at = parts.split(sizes), 0
    largest = max(walk.heights[0] * (walk.widths[0] + PADDING) for walk in walks.values())
    room = [parts.new_empty(largest) for _ in range(1 if first.dtype == parts.dtype else 3)]
    buffers: dict[tuple[int, int], list[Tensor]] = {}
    for number, walk in walks.items():
        down, across = len(walk.heights), len(walk.widths)
        to_rows = walk.order[0] in wanted[number]
        to_columns = any(axis != walk.order[0] for axis in wanted[number])
        w = walk.matrix(weights[number])
        g = w if gradients is None else walk.matrix(gradients[number])
        for j, (w_strip, g_strip) in enumerate(_cut(walk.widths, 1, w, g)):
            for i, (x, y) in enumerate(_cut(walk.heights, 0, w_strip, g_strip)):
                shape = walk.heights[i], walk.widths[j]
                if shape not in buffers:
                    buffers[shape] = [_corner(buffer, shape) for buffer in room]
                out, *spare = buffers[shape]
                x, y = _widened(x, y, spare)
                for m, moment in enumerate(moments):
                    _block_of(moment, x, y, out)
                    if to_rows:
                        torch.sum(out, 1, out=into[at + (j * count + m) * down + i])
                    if to_columns:
                        torch.sum(out, 0, out=into[at + count * across * down + (i * count + m) * across + j])
        at += 2 * count * across * down
    return _by_axis(weights, wanted, walks, _exact(parts), count)


def _by_axis(
    weights: Sequence[Tensor],
    wanted: Mapping[int, Sequence[int]],
    walks: Mapping[int, _Walk],
    parts: Tensor,
    moments: int,
) -> dict[tuple[int, int], Tensor]:
    """The sums of all blocks, added up for each requested axis."""
    sizes = [(len(w.widths) * w.rows, len(w.heights) * w.columns) for w in walks.values()]
    sides = iter(parts.split([moments * size for pair in sizes for size in pair]))
    sums = {}
    for number, walk in walks.items():
        of_rows, of_columns = next(sides), next(sides)
        lengths = [weights[number].shape[dim] for dim in walk.order]
        for axis in wanted[number]:
            place = walk.order.index(axis)
            if place == 0:
                sums[number, axis] = _added_up(of_rows, (len(walk.widths), moments, 1, walk.rows, 1))
            else:
                before, after = math.prod(lengths[1:place]), math.prod(lengths[place + 1 :])
                shape = (len(walk.heights), moments, before, lengths[place], after)
                sums[number, axis] = _added_up(of_columns, shape)
    return sums


def _sizes(walk: _Walk, moments: int) -> list[int]:
    """Lengths of the sums of all blocks: row sums by strip and moment, then column sums by band and moment."""
    down, across = len(walk.heights), len(walk.widths)
    return walk.heights * (moments * across) + walk.widths * (moments * down)


def _added_up(parts: Tensor, shape: tuple[int, int, int, int, int]) -> Tensor:
    """``[moments, channels]`` from [blocks, moments, before, channels, after]."""
    blocks, moments, before, channels, after = shape
    if blocks == before == after == 1:
        return parts.view(moments, channels)
    return parts.view(shape).sum((0, 2, 4))


def _cut(lengths: list[int], dim: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Corresponding pieces of the tensors, split into these lengths."""
    if len(lengths) == 1:
        return [tensors]
    return list(zip(*(tensor.split(lengths, dim) for tensor in tensors), strict=True))


def _block_of(moment: str, w: Tensor, g: Tensor, out: Tensor) -> None:
    """Compute a moment element by element, with no memory but ``out``."""
    if moment == "w2":
        torch.mul(w, w, out=out)
    elif moment == "abs_w":
        torch.abs(w, out=out)
    else:
        torch.mul(w, g, out=out)
        if moment == "abs_wg":
            out.abs_()
        elif moment == "wg2":
            torch.mul(out, out, out=out)


def _of_vectors(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor] | None,
    pairs: Sequence[tuple[int, int]],
    moments: Sequence[str],
) -> dict[tuple[int, int], Tensor]:
    """Moments of norms and biases: nothing is summed, so that all of them together take the time of one."""
    exact = torch.float64 if weights[0].device.type != "mps" else torch.float32
    w = torch.cat([weights[number].reshape(-1) for number, _ in pairs]).to(exact)
    g = w
    if gradients is not None and NEED_GRADIENTS.intersection(moments):
        g = torch.cat([gradients[number].reshape(-1) for number, _ in pairs]).to(exact)
    values = _exact(torch.stack([MOMENTS[moment](w, g) for moment in moments]))
    return dict(
        zip(pairs, values.split([weights[number].numel() for number, _ in pairs], dim=1), strict=True)
    )


def _corner(room: Tensor, shape: tuple[int, int]) -> Tensor:
    """A buffer of this shape, its rows padded."""
    height, width = shape
    return room[: height * (width + PADDING)].view(height, width + PADDING)[:, :width]


def _widened(w: Tensor, g: Tensor, spare: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Convert 16-bit numbers to float32: their product would overflow or lose precision."""
    if not spare:
        return w, g
    x = spare[0].copy_(w)
    return x, x if g.data_ptr() == w.data_ptr() else spare[1].copy_(g)


def _working(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _block(tensor: Tensor) -> int:
    return CPU_BLOCK if tensor.device.type == "cpu" else DEVICE_BLOCK


def _exact(values: Tensor) -> Tensor:
    """In float64; on the CPU where the device has none."""
    return (values.cpu() if values.device.type == "mps" else values).double()
