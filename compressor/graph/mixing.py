"""Rules of the operators that make channels from channels: convolutions, matrix products, norms, concatenation.

Each joins what must stay equal (the channels a layer reads, and the axis of the weight that reads them) and gives its
result the labels of the axis that makes it. Grouped convolutions are the only ones with a choice; see ``convolution``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from compressor.graph.flow import NOT_A_CHANNEL, Flow, Multiply, first_output, leave_whole
from compressor.graph.labels import Ids, Labels
from compressor.graph.record import Operation


def convolution(flow: Flow, operation: Operation) -> None:
    """Output channels are the weight's; input channels are tied to the weight's second axis."""
    x, weight, bias, _, _, _, transposed, _, groups = operation.args[:9]
    out = first_output(operation)
    read = flow.of(x).get(1)
    ids = flow.of(weight)
    flow.freeze(weight, NOT_A_CHANNEL, tuple(range(2, weight.dim())))
    produced, consumed = (ids.get(1), ids.get(0)) if transposed else (ids.get(0), ids.get(1))
    consumed_size: Ids | int = weight.shape[0] if transposed else weight.shape[1]
    if groups == 1:
        flow.tie(read, consumed, "it reads the network's input or a tensor of fixed width")
        consumed_size = consumed_size if consumed is None else consumed
    elif transposed:
        for some in (read, produced, consumed):
            if some is not None:
                flow.ledger.freeze(some, "no rule for a grouped transposed convolution")
        produced = None  # that axis of the weight holds one block of the output, not all of it
        consumed_size = weight.shape[0] // groups
    elif groups >= weight.shape[1]:
        _whole_blocks(flow, weight, groups, read, produced, consumed)
    else:
        consumed_size = _positions_in_blocks(flow, weight, groups, read, produced, consumed)
    if isinstance(bias, Tensor):
        flow.tie(flow.of(bias).get(0), produced, "its bias is of fixed width")
    if produced is not None:
        flow.give(out, {1: produced})
    space = x.shape[2:] if transposed else out.shape[2:]
    flow.multiplies.append(
        Multiply(
            module=operation.module,
            kind="convolution",
            positions=math.prod(space) * math.prod(weight.shape[2:]),
            produced=out.shape[1] if produced is None else produced,
            consumed=consumed_size,
        )
    )


def _whole_blocks(
    flow: Flow,
    weight: Tensor,
    groups: int,
    read: Ids | None,
    produced: Ids | None,
    consumed: Ids | None,
) -> None:
    """Many narrow blocks (depthwise is the extreme): a unit is a block, with all it reads and writes."""
    if consumed is not None:
        flow.ledger.freeze(consumed, NOT_A_CHANNEL)
    name = flow.name_of(weight)
    if read is None or produced is None or name is None:
        flow.tie(read, None, "it feeds a grouped convolution of fixed width")
        flow.tie(produced, None, "its grouped convolution reads a tensor of fixed width")
        return
    blocks_in, blocks_out = read.reshape(groups, -1), produced.reshape(groups, -1)
    flow.ledger.join(blocks_in, blocks_in[:, :1])
    flow.ledger.join(blocks_out, blocks_out[:, :1])
    flow.ledger.join(blocks_in[:, 0], blocks_out[:, 0])
    flow.block_convolutions[name] = groups


def _positions_in_blocks(
    flow: Flow,
    weight: Tensor,
    groups: int,
    read: Ids | None,
    produced: Ids | None,
    consumed: Ids | None,
) -> Ids | int:
    """Few wide blocks: a unit is one position, taken from every block alike, so that blocks stay equal."""
    if produced is not None:
        rows = produced.reshape(groups, -1)
        flow.ledger.join(rows, rows[:1])
    if read is None or consumed is None:
        flow.tie(read, consumed, "its grouped convolution reads a tensor of fixed width")
        return int(weight.shape[1])
    flow.ledger.join(read.reshape(groups, -1), consumed[None, :])
    return consumed


def matrix_product(flow: Flow, operation: Operation) -> None:
    """``mm(a, b)`` and ``addmm(bias, a, b)``: the contracted dimensions are one."""
    *bias, a, b = operation.args[:3] if operation.operator == "addmm" else operation.args[:2]
    _multiply(flow, operation, a, b, flow.of(b).get(0), flow.of(b).get(1), bias)


def linear(flow: Flow, operation: Operation) -> None:
    """``linear(x, weight, bias)``, where the recorder sees it whole."""
    x, weight, *bias = operation.args
    _multiply(flow, operation, x, weight.t(), flow.of(weight).get(1), flow.of(weight).get(0), bias)


def _multiply(
    flow: Flow,
    operation: Operation,
    a: Tensor,
    b: Tensor,
    consumed: Ids | None,
    produced: Ids | None,
    bias: list[Any],
) -> None:
    out = first_output(operation)
    labels = flow.of(a)
    flow.tie(labels.get(a.dim() - 1), consumed, "it reads the network's input or a tensor of fixed width")
    for tensor in bias:
        if isinstance(tensor, Tensor):
            flow.tie(flow.of(tensor).get(tensor.dim() - 1), produced, "its bias is of fixed width")
    result = {dim: ids for dim, ids in labels.items() if dim < a.dim() - 1}
    if produced is not None:
        result[out.dim() - 1] = produced
    flow.give(out, result)
    flow.multiplies.append(
        Multiply(
            module=operation.module,
            kind="linear",
            positions=math.prod(a.shape[:-1]),
            produced=b.shape[1] if produced is None else produced,
            consumed=b.shape[0] if consumed is None else consumed,
        )
    )


def batched_product(flow: Flow, operation: Operation) -> None:
    """``bmm`` of two activations (attention): counted, and what it touches is left whole."""
    a, b = operation.args[-2:]
    leave_whole(flow, operation)
    flow.multiplies.append(
        Multiply(operation.module, "matrix product", math.prod(a.shape[:-1]), b.shape[-1], a.shape[-1])
    )


def vector_product(flow: Flow, operation: Operation) -> None:
    """``mv``, ``dot`` and ``addmv``: counted, and what they touch is left whole."""
    a = operation.args[-2]
    leave_whole(flow, operation)
    flow.multiplies.append(
        Multiply(operation.module, "matrix product", math.prod(a.shape[:-1]), 1, a.shape[-1])
    )


def batch_norm(flow: Flow, operation: Operation) -> None:
    """Weight, bias and both running statistics belong to the channels of the input."""
    x = operation.args[0]
    channels = flow.of(x).get(1)
    for tensor in operation.args[1:5]:
        if isinstance(tensor, Tensor):
            flow.tie(flow.of(tensor).get(0), channels, "its batch norm is of fixed width")
    flow.give(first_output(operation), flow.of(x))


def concatenate(flow: Flow, operation: Operation) -> None:
    """The channels of the parts, one after the other; a part of fixed width keeps its place, frozen."""
    parts = [tensor for tensor in operation.args[0] if tensor.numel()]
    out = first_output(operation)
    axis = (operation.args[1] if len(operation.args) > 1 else operation.kwargs.get("dim", 0)) % out.dim()
    result: Labels = {}
    for dim in range(out.dim()):
        labels = [flow.of(part).get(dim) for part in parts]
        known = [ids for ids in labels if ids is not None]
        if not known:
            continue
        if dim == axis:
            result[dim] = np.concatenate(
                [
                    _fixed_channels(flow, part, dim) if ids is None else ids
                    for part, ids in zip(parts, labels, strict=True)
                ]
            )
        elif len(known) < len(parts):
            for ids in known:
                flow.ledger.freeze(ids, "it is concatenated with a tensor of fixed width")
        else:
            for ids in known[1:]:
                flow.ledger.join(known[0], ids)
            result[dim] = known[0]
    flow.give(out, result)


def _fixed_channels(flow: Flow, tensor: Tensor, dim: int) -> Ids:
    """Atoms for channels that no parameter makes, so that their neighbours can still be told apart."""
    ids = flow.ledger.register("", (tensor.shape[dim],))[0]
    flow.ledger.freeze(ids, "it is concatenated from a tensor of fixed width")
    return ids
