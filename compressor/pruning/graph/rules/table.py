"""One rule per operator: how channels pass through it.

``RULES`` is the whole list. A rule may join channels, freeze them, and must give labels to the results; what it does
not say stays plain. An operator that is not in the table freezes everything it touches: a guess ("probably
elementwise") would be a network that is silently wrong. To support a new operator: write a function
``(flow, operation)``, add its row, add a network to ``tests/compressor/test_graph_rules.py``.
"""

from __future__ import annotations

from collections.abc import Callable

from compressor.pruning.graph.recording.operation import Operation, tensors_in
from compressor.pruning.graph.rules import convolutions, joining, lookup, norms, products, reshaping, spatial
from compressor.pruning.graph.rules.flow import Flow, first_output
from compressor.pruning.graph.rules.recurrent import recurrent

Rule = Callable[[Flow, Operation], None]


def pointwise(flow: Flow, operation: Operation) -> None:
    """Elementwise with broadcasting: what meets at an index is one channel."""
    out = first_output(operation)
    given = tensors_in([operation.args, operation.kwargs])
    operands = [tensor for tensor in given if tensor.dim() > 0]
    labels = flow.combine(operands, out.dim(), f"it meets a tensor of fixed width in `{operation.operator}`")
    for tensor in operation.outputs:
        if tensor.shape == out.shape:
            flow.give(tensor, labels)


DROPOUTS = frozenset("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout".split())

RULES: dict[str, Rule] = {
    **dict.fromkeys(
        """add sub rsub mul div pow maximum minimum where gt ge lt le eq ne fmod remainder
        addcmul addcdiv lerp atan2 logical_and logical_or logical_not logical_xor bitwise_and bitwise_or
        bitwise_not masked_fill isnan isinf nan_to_num heaviside
        clamp clamp_min clamp_max relu relu6 hardtanh sigmoid hardsigmoid silu hardswish gelu elu selu celu
        leaky_relu tanh softplus mish threshold exp exp2 expm1 log log1p log2 log10 neg abs sgn sign sqrt rsqrt
        reciprocal square sin cos tan tanh asin acos atan sinh cosh erf erfinv floor ceil round trunc frac
        log_sigmoid_forward hardshrink softshrink logit sinc floor_divide
        copy rrelu_with_noise _prelu_kernel prelu zeros_like ones_like full_like empty_like
        fill zero positive logaddexp logaddexp2 hypot copysign fmax fmin xlogy erfc lgamma digamma i0
        signbit asinh acosh atanh deg2rad rad2deg complex polar angle
        drop_path""".split(),
        pointwise,
    ),
    **dict.fromkeys(DROPOUTS, pointwise),
    "convolution": convolutions.convolution,
    "linear": products.linear,
    **dict.fromkeys(("mm", "addmm"), products.matrix_product),
    **dict.fromkeys(("matmul", "bmm", "baddbmm"), products.batched_product),
    "attention": products.attention,
    **dict.fromkeys(("mv", "dot", "vdot", "addmv"), products.vector_product),
    "cat": joining.concatenate,
    "stack": joining.stack,
    **dict.fromkeys(
        """batch_norm instance_norm native_batch_norm _native_batch_norm_legit
        _native_batch_norm_legit_no_training cudnn_batch_norm""".split(),
        norms.batch_norm,
    ),
    **dict.fromkeys(("layer_norm", "rms_norm"), norms.layer_norm),
    "group_norm": norms.group_norm,
    "local_response_norm": norms.local_response_norm,
    "_weight_norm_interface": norms.weight_norm,
    **dict.fromkeys(("_softmax", "_log_softmax"), norms.softmax),
    **dict.fromkeys(
        "mean sum prod amax amin var std var_mean std_mean linalg_vector_norm norm logsumexp".split(),
        norms.reduction,
    ),
    **dict.fromkeys(("max", "min"), norms.extreme),
    **dict.fromkeys(
        """cumsum cumprod cummax cummin logcumsumexp sort topk argsort argmax argmin kthvalue median
        nanmedian flip_sort""".split(),
        norms.runs_along,
    ),
    **dict.fromkeys("clone detach alias _to_copy lift_fresh contiguous".split(), reshaping.copies),
    **dict.fromkeys(("permute", "transpose", "t"), reshaping.permute),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), reshaping.reshape),
    "expand": reshaping.expand,
    "repeat": reshaping.repeat,
    "unsqueeze": reshaping.unsqueeze,
    "squeeze": reshaping.squeeze,
    "slice": reshaping.slice_,
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split"), reshaping.split),
    "select": reshaping.select,
    "unbind": reshaping.unbind,
    "roll": reshaping.roll,
    "flip": reshaping.flip,
    **dict.fromkeys(("constant_pad_nd",), reshaping.pads),
    **dict.fromkeys(spatial.SPATIAL_DIMS, spatial.keeps_leading),
    **dict.fromkeys(("grid_sampler_2d", "grid_sampler_3d"), spatial.grid_sample),
    **dict.fromkeys(("roi_align", "roi_pool"), spatial.roi_pool),
    "pixel_shuffle": spatial.pixel_shuffle,
    **dict.fromkeys(("pixel_unshuffle", "im2col"), spatial.spreads_space),
    "col2im": spatial.gathers_space,
    "unfold": spatial.unfold,
    **dict.fromkeys(("_fft_r2c", "_fft_c2r", "_fft_c2c", "rot90"), spatial.transforms),
    **dict.fromkeys(("_cdist_forward", "_euclidean_dist"), spatial.distances),
    "view_as_real": spatial.adds_a_last_dim,
    "view_as_complex": spatial.drops_the_last_dim,
    "_trilinear": products.trilinear,
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), reshaping.channel_shuffle),
    "glu": reshaping.gated_halves,
    **dict.fromkeys(("tril", "triu"), reshaping.triangle),
    "embedding": lookup.embedding,
    "index": lookup.index,
    **dict.fromkeys(("gather", "scatter_add", "index_add"), lookup.along_one_dim),
    "index_put": lookup.index_put,
    "index_select": lookup.index_select,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), recurrent),
    **dict.fromkeys(
        """zeros ones full empty new_zeros new_ones new_full new_empty scalar_tensor""".split(),
        reshaping.creates,
    ),
    **dict.fromkeys(("arange", "linspace", "eye", "meshgrid"), reshaping.counts_up),
}


def rule_of(operator: str) -> Rule | None:
    """The rule of an operator; one that works in place follows the rule of its plain form."""
    return RULES.get(operator) or RULES.get(operator.removesuffix("_"))


RANDOM = frozenset(
    """bernoulli native_dropout rand randn randint randperm rand_like randn_like randint_like uniform normal
    multinomial exponential""".split()
)
"""Operators whose result is drawn: a network with one of them in evaluation has no output to be compared."""
