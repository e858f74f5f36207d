"""Rules of the operators that work in space: pooling, resizing, sampling, and channels that become space."""

from __future__ import annotations

import math

import numpy as np

from compressor.pruning.graph.recording.operation import Operation
from compressor.pruning.graph.rules.flow import Flow, first_output


def keeps_leading(flow: Flow, operation: Operation) -> None:
    """Pooling, resizing and padding in space: batch and channels pass, space must be plain."""
    x = operation.args[0]
    spatial = SPATIAL_DIMS[operation.operator]
    first = x.dim() - spatial
    flow.freeze(x, f"`{operation.operator}` runs along it", range(first, x.dim()))
    labels = {dim: ids for dim, ids in flow.of(x).items() if dim < first}
    for out in operation.outputs:
        flow.give(out, labels)


def grid_sample(flow: Flow, operation: Operation) -> None:
    """``grid_sampler_2d(x, grid)``: channels pass, everything else is looked up."""
    x, grid = operation.args[:2]
    flow.freeze(x, "it is sampled", (0, *range(2, x.dim())))
    flow.freeze(grid, "it says where to sample")
    flow.give(first_output(operation), {d: ids for d, ids in flow.of(x).items() if d == 1})


def roi_pool(flow: Flow, operation: Operation) -> None:
    """``roi_align`` and ``roi_pool``: channels pass, boxes say the rest."""
    x, boxes = operation.args[:2]
    flow.freeze(x, "it is pooled by boxes", (0, 2, 3))
    flow.freeze(boxes, "it says where to pool")
    for out in operation.outputs:
        flow.give(out, {d: ids for d, ids in flow.of(x).items() if d == 1})


def pixel_shuffle(flow: Flow, operation: Operation) -> None:
    """Channels become space: those that fill one square go together."""
    x, factor = operation.args[:2]
    dim = x.dim() - 3
    labels = {d: ids for d, ids in flow.of(x).items() if d < dim}
    flow.freeze(x, "it is shuffled", (dim + 1, dim + 2))
    ids = flow.of(x).get(dim)
    if ids is not None and ids.ndim == 1:
        squares = ids.reshape(-1, factor * factor)
        flow.ledger.join(squares, squares[:, :1])
        labels[dim] = np.ascontiguousarray(squares[:, 0])
    elif ids is not None:
        flow.ledger.freeze(ids, "it is shuffled")
    flow.give(first_output(operation), labels)


def spreads_space(flow: Flow, operation: Operation) -> None:
    """``pixel_unshuffle`` and ``im2col``: each channel becomes several, one after the other."""
    x, out = operation.args[0], first_output(operation)
    dim = x.dim() - 3
    flow.freeze(x, "it is shuffled", (dim + 1, dim + 2))
    labels = {d: ids for d, ids in flow.of(x).items() if d < dim}
    ids = flow.of(x).get(dim)
    if ids is not None:
        labels[dim] = np.repeat(ids, out.shape[dim] // x.shape[dim], axis=0)
    flow.give(out, labels)


def gathers_space(flow: Flow, operation: Operation) -> None:
    """``col2im``: the entries of one window belong to one channel."""
    x, _, kernel = operation.args[:3]
    dim = x.dim() - 2
    flow.freeze(x, "it is folded", (dim + 1,))
    labels = {d: ids for d, ids in flow.of(x).items() if d < dim}
    ids = flow.of(x).get(dim)
    if ids is not None and ids.ndim == 1:
        windows = ids.reshape(-1, math.prod(kernel))
        flow.ledger.join(windows, windows[:, :1])
        labels[dim] = np.ascontiguousarray(windows[:, 0])
    elif ids is not None:
        flow.ledger.freeze(ids, "it is folded")
    flow.give(first_output(operation), labels)


def transforms(flow: Flow, operation: Operation) -> None:
    """Fourier transforms and ``rot90``: the dimensions they name are mixed, the others pass."""
    x = operation.args[0]
    at = 2 if operation.operator == "rot90" else 1
    dims = operation.args[at] if len(operation.args) > at else (0, 1)
    mixed = {dim % x.dim() for dim in ([dims] if isinstance(dims, int) else dims)}
    flow.freeze(x, f"`{operation.operator}` mixes it", mixed)
    flow.give(first_output(operation), {d: ids for d, ids in flow.of(x).items() if d not in mixed})


def distances(flow: Flow, operation: Operation) -> None:
    """``cdist``: rows of the one by rows of the other; what distances are taken over stays."""
    a, b = operation.args[:2]
    out = first_output(operation)
    for tensor in (a, b):
        flow.freeze(tensor, "distances are taken over it", (tensor.dim() - 1,))
    labels = flow.combine([a, b], out.dim(), "it meets rows of fixed number", last=2)
    rows, columns = flow.of(a).get(a.dim() - 2), flow.of(b).get(b.dim() - 2)
    labels = {**labels, **({} if rows is None else {out.dim() - 2: rows})}
    flow.give(out, {**labels, **({} if columns is None else {out.dim() - 1: columns})})


def adds_a_last_dim(flow: Flow, operation: Operation) -> None:
    """``view_as_real``: real and imaginary part as a new last dimension."""
    flow.give(first_output(operation), flow.of(operation.args[0]))


def drops_the_last_dim(flow: Flow, operation: Operation) -> None:
    """``view_as_complex``: the last dimension holds real and imaginary part."""
    x = operation.args[0]
    flow.freeze(x, "it holds real and imaginary parts", (x.dim() - 1,))
    flow.give(first_output(operation), {d: ids for d, ids in flow.of(x).items() if d < x.dim() - 1})


def unfold(flow: Flow, operation: Operation) -> None:
    """``unfold(dim, size, step)``: windows along a plain dimension, as a new last one."""
    x, dim = operation.args[:2]
    dim %= x.dim()
    flow.freeze(x, "windows slide along it", (dim,))
    flow.give(first_output(operation), {d: ids for d, ids in flow.of(x).items() if d != dim})


SPATIAL_DIMS = {
    **dict.fromkeys(
        """avg_pool1d max_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_nearest1d upsample_linear1d
        reflection_pad1d replication_pad1d""".split(),
        1,
    ),
    **dict.fromkeys(
        """max_pool2d_with_indices max_pool2d avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool2d
        adaptive_max_pool2d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_nearest_exact2d
        _upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad2d replication_pad2d""".split(),
        2,
    ),
    **dict.fromkeys(
        """max_pool3d_with_indices avg_pool3d _adaptive_avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d
        upsample_nearest3d upsample_trilinear3d reflection_pad3d replication_pad3d""".split(),
        3,
    ),
}
"""Operators that work in space, and over how many of the last dimensions."""
