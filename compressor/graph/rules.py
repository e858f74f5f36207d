"""One rule per operator: how channels pass through it.

``RULES`` at the end is the whole list. A rule may join channels, freeze them, and must give labels to
the results; what it does not say stays plain. An operator that is not in the table freezes everything
it touches: a guess ("probably elementwise") would be a network that is silently wrong. To support a
new operator: write a function ``(flow, operation)``, add its row, add a network to
``tests/compressor/test_graph_rules.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from compressor.graph.flow import NOT_A_CHANNEL, Flow, Multiply, first_output, tensors_in
from compressor.graph.labels import Ids, Labels
from compressor.graph.record import Operation

Rule = Callable[[Flow, Operation], None]


def pointwise(flow: Flow, operation: Operation) -> None:
    """Elementwise with broadcasting: what meets at an index is one channel."""
    out = first_output(operation)
    operands = [tensor for tensor in tensors_in(operation.args) if tensor.dim() > 0]
    result: Labels = {}
    for dim in range(out.dim()):
        met: list[Ids] = []
        fixed = False
        for tensor in operands:
            own = dim - (out.dim() - tensor.dim())
            if own < 0 or tensor.shape[own] == 1:
                continue
            ids = flow.of(tensor).get(own)
            if ids is None:
                fixed = True
            else:
                met.append(ids)
        if fixed:
            for ids in met:
                flow.ledger.freeze(ids, f"it meets a tensor of fixed width in `{operation.operator}`")
        elif met:
            for ids in met[1:]:
                flow.ledger.join(met[0], ids)
            result[dim] = met[0]
    for tensor in operation.outputs:
        if tensor.shape == out.shape:
            flow.give(tensor, result)


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
    no_rule(flow, operation)
    flow.multiplies.append(
        Multiply(operation.module, "matrix product", math.prod(a.shape[:-1]), b.shape[-1], a.shape[-1])
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


def keeps_leading(flow: Flow, operation: Operation) -> None:
    """Pooling and resizing: batch and channels pass, space is plain."""
    labels = flow.of(operation.args[0])
    for out in operation.outputs:
        flow.give(out, {dim: ids for dim, ids in labels.items() if dim < 2})


def reduction(flow: Flow, operation: Operation) -> None:
    """Mean, sum and extremes over plain dimensions; over channels they depend on all of them."""
    x, out = operation.args[0], first_output(operation)
    given = operation.args[1] if len(operation.args) > 1 else operation.kwargs.get("dim")
    if given is None or given == []:
        given = list(range(x.dim()))
    dims = {dim % x.dim() for dim in ([given] if isinstance(given, int) else given)}
    flow.freeze(x, f"`{operation.operator}` runs over it", tuple(dims))
    kept = [dim for dim in range(x.dim()) if dim not in dims]
    place = {dim: dim if out.dim() == x.dim() else kept.index(dim) for dim in kept}
    for tensor in operation.outputs:
        flow.give(tensor, {place[dim]: ids for dim, ids in flow.of(x).items() if dim in place})


def normalises_over(flow: Flow, operation: Operation) -> None:
    """Softmax: the dimension it runs over is fixed, the others pass."""
    x, dim = operation.args[0], operation.args[1] % operation.args[0].dim()
    flow.freeze(x, f"`{operation.operator}` runs over it", (dim,))
    flow.give(first_output(operation), {d: ids for d, ids in flow.of(x).items() if d != dim})


def layer_norm(flow: Flow, operation: Operation) -> None:
    """Its statistics run over the channels, so these and its own parameters stay whole."""
    x, shape, *parameters = operation.args[:4]
    first = x.dim() - len(shape)
    reason = "a layer norm takes its statistics over it"
    flow.freeze(x, reason, tuple(range(first, x.dim())))
    for tensor in parameters:
        flow.freeze(tensor, reason)
    flow.give(first_output(operation), {d: ids for d, ids in flow.of(x).items() if d < first})


def permute(flow: Flow, operation: Operation) -> None:
    """``permute``, ``transpose`` and ``t``: labels move with their dimensions."""
    x = operation.args[0]
    order = list(range(x.dim()))
    if operation.operator == "permute":
        order = [dim % x.dim() for dim in operation.args[1]]
    elif x.dim() > 1:
        one, other = operation.args[1:3] if operation.operator == "transpose" else (0, 1)
        order[one], order[other] = order[other], order[one]
    labels = flow.of(x)
    flow.give(
        first_output(operation),
        {new: labels[old] for new, old in enumerate(order) if old in labels},
    )


def reshape(flow: Flow, operation: Operation) -> None:
    """Views: labels are spread over the dimensions that merge or split, and reshaped with them.

    A merged dimension repeats each channel's label (flatten before a linear layer). Channels split
    over two dimensions are frozen: no single axis is left from which to take them.
    """
    x, out = operation.args[0], first_output(operation)
    labels, result = flow.of(x), {}
    for sources, targets in _matching_dims(tuple(x.shape), tuple(out.shape)):
        known = [dim for dim in sources if dim in labels]
        if not known:
            continue
        if len(known) > 1:
            for dim in known:
                flow.ledger.freeze(labels[dim], "two channel dimensions are merged")
            continue
        sizes = [x.shape[dim] for dim in sources]
        spread = labels[known[0]].reshape([-1 if dim == known[0] else 1 for dim in sources])
        ids = np.broadcast_to(spread, sizes).reshape([out.shape[dim] for dim in targets])
        varies = [axis for axis in range(ids.ndim) if (ids != ids.take([0], axis)).any()]
        if len(varies) > 1:
            flow.ledger.freeze(ids, "a reshape splits it over two dimensions")
        elif varies:
            rest = tuple(slice(None) if axis == varies[0] else 0 for axis in range(ids.ndim))
            result[targets[varies[0]]] = ids[rest]
    flow.give(out, result)


def _matching_dims(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions with equal products: (2, 3, 4, 4) and (2, 3, 16) give three."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        sources: list[int] = []
        targets: list[int] = []
        size_before = size_after = 1
        while not sources or not targets or size_before != size_after:
            take_source = (size_before <= size_after and i < len(before)) or j >= len(after)
            if take_source and i < len(before):
                sources.append(i)
                size_before *= before[i]
                i += 1
            elif j < len(after):
                targets.append(j)
                size_after *= after[j]
                j += 1
            else:
                break
        runs.append((sources, targets))
    return runs


def expand(flow: Flow, operation: Operation) -> None:
    """Labels stay with the last dimensions; a dimension that is repeated is plain."""
    x, out = operation.args[0], first_output(operation)
    shift = out.dim() - x.dim()
    flow.give(out, {dim + shift: ids for dim, ids in flow.of(x).items()})


def unsqueeze(flow: Flow, operation: Operation) -> None:
    """A new dimension of one: later labels move up."""
    x, dim = operation.args[:2]
    at = dim % (x.dim() + 1)
    flow.give(first_output(operation), {d + (d >= at): ids for d, ids in flow.of(x).items()})


def squeeze(flow: Flow, operation: Operation) -> None:
    """Dimensions of one disappear: later labels move down."""
    x = operation.args[0]
    given = operation.args[1] if len(operation.args) > 1 else list(range(x.dim()))
    asked = {dim % x.dim() for dim in ([given] if isinstance(given, int) else given)}
    gone = {dim for dim in asked if x.shape[dim] == 1}
    flow.give(
        first_output(operation),
        {d - sum(g < d for g in gone): ids for d, ids in flow.of(x).items()},
    )


def takes_part(flow: Flow, operation: Operation) -> None:
    """Slices, splits, selections: fine along plain dimensions.

    Along channels the sizes were fixed by the caller's Python, so those channels stay whole.
    """
    x = operation.args[0]
    labels = flow.of(x)
    for out in operation.outputs:
        if out.dim() == x.dim():
            same = {dim for dim in labels if out.shape[dim] == x.shape[dim]}
            flow.give(out, {dim: labels[dim] for dim in same})
            cut = tuple(dim for dim in labels if dim not in same)
        else:
            gone = operation.args[1] % x.dim() if len(operation.args) > 1 else 0
            cut = (gone,)
            flow.give(out, {d - (d > gone): ids for d, ids in labels.items() if d != gone})
        flow.freeze(x, f"`{operation.operator}` takes a fixed part of it", cut)


def pads(flow: Flow, operation: Operation) -> None:
    """Padding: fine along plain dimensions. Along channels it may also move or crop them, so they stay whole."""
    x, amounts = operation.args[:2]
    labels = flow.of(x)
    # Two amounts a dimension, the last dimension first.
    padded = tuple(dim for dim in labels if any(amounts[2 * (x.dim() - 1 - dim) :][:2]))
    flow.freeze(x, f"`{operation.operator}` pads it", padded)
    flow.give(first_output(operation), {dim: ids for dim, ids in labels.items() if dim not in padded})


def creates(flow: Flow, operation: Operation) -> None:
    """New tensors that depend on no channel: plain."""


def no_rule(flow: Flow, operation: Operation) -> None:
    """Whatever is not in the table: everything it touches is left whole."""
    where = f"`{operation.module}`" if operation.module else "the network itself"
    for tensor in tensors_in([operation.args, list(operation.kwargs.values())]):
        flow.freeze(tensor, f"no rule for the operator `{operation.operator}` in {where}")


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        """add add_ sub sub_ rsub mul mul_ div div_ pow pow_ maximum minimum where gt ge lt le eq ne
        clamp clamp_ clamp_min clamp_min_ clamp_max clamp_max_ relu relu_ relu6 relu6_ hardtanh
        hardtanh_ sigmoid sigmoid_ hardsigmoid hardsigmoid_ silu silu_ hardswish hardswish_ gelu elu
        elu_ selu selu_ celu celu_ leaky_relu leaky_relu_ tanh tanh_ softplus mish mish_ threshold
        threshold_ exp exp_ log neg neg_ abs abs_ sqrt rsqrt reciprocal square sin cos erf clone
        detach alias _to_copy copy_ lift_fresh native_dropout bernoulli_ _prelu_kernel prelu""".split(),
        pointwise,
    ),
    "convolution": convolution,
    **dict.fromkeys(("mm", "addmm"), matrix_product),
    "linear": linear,
    **dict.fromkeys(("bmm", "baddbmm"), batched_product),
    **dict.fromkeys(
        """native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
        _batch_norm_no_update _batch_norm_with_update cudnn_batch_norm""".split(),
        batch_norm,
    ),
    "cat": concatenate,
    **dict.fromkeys(
        """max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d
        avg_pool1d max_pool2d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d""".split(),
        keeps_leading,
    ),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), reduction),
    **dict.fromkeys(("_softmax", "_log_softmax"), normalises_over),
    "native_layer_norm": layer_norm,
    **dict.fromkeys(("permute", "transpose", "t"), permute),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), reshape),
    "expand": expand,
    "unsqueeze": unsqueeze,
    "squeeze": squeeze,
    **dict.fromkeys(
        """slice split split_with_sizes chunk unbind select narrow""".split(),
        takes_part,
    ),
    "constant_pad_nd": pads,
    **dict.fromkeys(
        """zeros ones full empty arange zeros_like ones_like full_like empty_like new_zeros new_ones
        new_full new_empty scalar_tensor rand""".split(),
        creates,
    ),
}
