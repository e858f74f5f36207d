"""One rule per operator: how channels pass through it.

``RULES`` at the end is the whole list. A rule may join channels, freeze them, and must give labels to
the results; what it does not say stays plain. An operator that is not in the table freezes everything
it touches: a guess ("probably elementwise") would be a network that is silently wrong. To support a
new operator: write a function ``(flow, operation)``, add its row, add a network to
``tests/compressor/test_graph_rules.py``.
"""

from __future__ import annotations

from collections.abc import Callable

from compressor.graph.flow import Flow, first_output, tensors_in
from compressor.graph.labels import Ids, Labels
from compressor.graph.mixing import (
    batch_norm,
    batched_product,
    concatenate,
    convolution,
    linear,
    matrix_product,
    vector_product,
)
from compressor.graph.moving import (
    expand,
    pads,
    permute,
    reshape,
    squeeze,
    takes_part,
    unsqueeze,
)
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


def creates(flow: Flow, operation: Operation) -> None:
    """New tensors that depend on no channel: plain."""


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
    **dict.fromkeys(("mv", "dot", "addmv"), vector_product),
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
