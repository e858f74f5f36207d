"""Rules of the operators that multiply and sum: linear layers, matrix products, attention."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from compressor.pruning.graph.recording.operation import Operation
from compressor.pruning.graph.rules.flow import Flow, Multiply, first_output
from compressor.pruning.graph.rules.labels import Ids, Labels

FIXED = "it reads the network's input or a tensor of fixed width"


def linear(flow: Flow, operation: Operation) -> None:
    """``linear(x, weight, bias)``: rows of the weight are made, columns are read."""
    x, weight, bias = (*operation.args, None)[:3]
    ids = flow.of(weight)
    _product(flow, operation, x, weight.shape, ids.get(1), ids.get(0), [bias], named=True)


def matrix_product(flow: Flow, operation: Operation) -> None:
    """``mm(a, b)`` and ``addmm(bias, a, b)``: the contracted dimensions are one."""
    *bias, a, b = operation.args[:3] if operation.operator == "addmm" else operation.args[:2]
    ids = flow.of(b)
    named = flow.is_own(b)
    _product(flow, operation, a, tuple(reversed(b.shape)), ids.get(0), ids.get(1), bias, named=named)


def _product(
    flow: Flow,
    operation: Operation,
    x: Tensor,
    shape: tuple[int, ...],
    consumed: Ids | None,
    produced: Ids | None,
    biases: list[Any],
    *,
    named: bool,
) -> None:
    out = first_output(operation)
    labels = flow.of(x)
    last = x.dim() - 1
    flow.tie(labels.get(last), consumed, FIXED)
    for bias in biases:
        if isinstance(bias, Tensor):
            flow.tie(flow.of(bias).get(bias.dim() - 1), produced, "its bias is of fixed width")
    result = {dim: ids for dim, ids in labels.items() if dim < last}
    positions = math.prod(size for dim, size in enumerate(x.shape[:-1]) if dim not in result)
    sizes = (
        shape[0] if produced is None else produced,
        shape[1] if consumed is None else consumed,
        *result.values(),
    )
    if produced is not None:
        result[out.dim() - 1] = produced
    flow.give(out, result)
    kind = "linear" if named else "matrix product"
    flow.multiplies.append(Multiply(operation, kind, positions, sizes, named))


def batched_product(flow: Flow, operation: Operation) -> None:
    """``matmul``, ``bmm`` and ``baddbmm``: rows of the one by columns of the other, for every index before them."""
    *bias, a, b = operation.args[:3] if operation.operator == "baddbmm" else operation.args[:2]
    out = first_output(operation)
    one, other, dims = flow.of(a), flow.of(b), out.dim()
    inner = flow.tie(one.get(a.dim() - 1), other.get(b.dim() - 2), FIXED)
    result = flow.combine([a, b], dims, FIXED, last=2)
    positions = math.prod(size for dim, size in enumerate(out.shape[:-2]) if dim not in result)
    rows, columns = one.get(a.dim() - 2), other.get(b.dim() - 1)
    sizes = [
        out.shape[-1] if columns is None else columns,
        a.shape[-1] if inner is None else inner,
        out.shape[-2] if rows is None else rows,
        *result.values(),
    ]
    if rows is not None:
        result[dims - 2] = rows
    if columns is not None:
        result[dims - 1] = columns
    if dims > 2:
        flow.inside_heads += [ids for ids in (inner, columns) if ids is not None]
    flow.give(out, result)
    columns_made, rows_made = (flow.is_own(each) for each in (b, a))
    if rows_made and not columns_made:
        sizes[0], sizes[2] = sizes[2], sizes[0]
    named = columns_made or rows_made
    kind = "linear" if named else "matrix product"
    flow.multiplies.append(Multiply(operation, kind, positions, tuple(sizes), named))
    if bias:
        flow.give(out, flow.combine([bias[0], out], dims, "it is added to a product"))


def attention(flow: Flow, operation: Operation) -> None:
    """Scaled dot products: queries meet keys over the width of a head, weights meet values over positions."""
    q, k, v, mask = operation.args[:4]
    out = first_output(operation)
    dims = out.dim()
    width = flow.tie(flow.of(q).get(q.dim() - 1), flow.of(k).get(k.dim() - 1), FIXED)
    seen = flow.tie(flow.of(k).get(k.dim() - 2), flow.of(v).get(v.dim() - 2), FIXED)
    result = flow.combine([q, k, v], dims, FIXED, last=2)
    rows, made = flow.of(q).get(q.dim() - 2), flow.of(v).get(v.dim() - 1)
    if isinstance(mask, Tensor):
        scores: Labels = dict(result)
        scores.update({d: ids for d, ids in ((dims - 2, rows), (dims - 1, seen)) if ids is not None})
        _meet(flow, mask, scores, dims)
    positions = math.prod(size for dim, size in enumerate(out.shape[:-2]) if dim not in result)
    common = (
        k.shape[-2] if seen is None else seen,
        out.shape[-2] if rows is None else rows,
        *result.values(),
    )
    for ids, tensor in ((width, q), (made, v)):
        sizes = (tensor.shape[-1] if ids is None else ids, *common)
        flow.multiplies.append(Multiply(operation, "matrix product", positions, sizes, makes=False))
    flow.inside_heads += [ids for ids in (width, made) if ids is not None]
    if rows is not None:
        result[dims - 2] = rows
    if made is not None:
        result[dims - 1] = made
    flow.give(out, result)


def _meet(flow: Flow, tensor: Tensor, labels: Labels, dims: int) -> None:
    """A tensor that broadcasts against a result with these labels."""
    own = flow.of(tensor)
    for dim in range(tensor.dim()):
        if tensor.shape[dim] > 1:
            flow.tie(own.get(dim), labels.get(dim + dims - tensor.dim()), "it meets attention of fixed size")


def vector_product(flow: Flow, operation: Operation) -> None:
    """``mv``, ``dot`` and ``addmv``: contracted with a vector."""
    *bias, a, b = operation.args[:3] if operation.operator == "addmv" else operation.args[:2]
    out = first_output(operation)
    inner = flow.tie(flow.of(a).get(a.dim() - 1), flow.of(b).get(0), FIXED)
    rows = flow.of(a).get(0) if a.dim() == 2 else None
    flow.give(out, {} if rows is None else {0: rows})
    sizes = (a.shape[0] if rows is None and a.dim() == 2 else 1 if rows is None else rows,)
    flow.multiplies.append(
        Multiply(
            operation,
            "matrix product",
            1,
            (*sizes, a.shape[-1] if inner is None else inner),
            makes=flow.is_own(a),
        )
    )
    if bias:
        flow.give(out, flow.combine([bias[0], out], out.dim(), "it is added to a product"))


def trilinear(flow: Flow, operation: Operation) -> None:
    """``_trilinear(x, weight, y, …)``, as in ``nn.Bilinear``: all three are laid over one space and summed over dims.

    The lists of the operator say at which dimensions each tensor is extended by one of size 1.
    """
    *tensors, _, _, _, summed = operation.args[:7]
    added = operation.args[3:6]
    dims = tensors[0].dim() + len(added[0])
    met: list[list[Ids]] = [[] for _ in range(dims)]
    sizes, fixed = [1] * dims, [False] * dims
    for tensor, new in zip(tensors, added, strict=True):
        own = [dim for dim in range(dims) if dim not in new]
        for place, dim in enumerate(own):
            sizes[dim] = max(sizes[dim], tensor.shape[place])
            ids = flow.of(tensor).get(place)
            met[dim] += [] if ids is None else [ids]
            fixed[dim] |= ids is None and tensor.shape[place] > 1
    labels: Labels = {}
    for dim in range(dims):
        for ids in met[dim]:
            if fixed[dim]:
                flow.ledger.freeze(ids, FIXED)
            else:
                flow.tie(met[dim][0], ids, FIXED)
        if met[dim] and not fixed[dim]:
            labels[dim] = met[dim][0]
    kept = [dim for dim in range(dims) if dim not in summed]
    result = {place: labels[dim] for place, dim in enumerate(kept) if dim in labels}
    flow.give(first_output(operation), result)
    written = next((dim for dim in kept if dim in labels), kept[-1])
    order = [written, *(dim for dim in range(dims) if dim != written)]
    flow.multiplies.append(
        Multiply(
            operation,
            "linear",
            1,
            tuple(labels.get(dim, sizes[dim]) for dim in order),
            flow.is_own(tensors[1]),
        )
    )
