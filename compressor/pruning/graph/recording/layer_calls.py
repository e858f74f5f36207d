"""Layers that are recorded whole, at the level of the Python call, with a canonical order of arguments.

Below that level a linear layer is a transpose and a product, attention is seven operators, dropout in evaluation is
nothing at all, and all of it takes longer to trace and reads worse when it is written down again. A function of
``WHOLE`` takes the call's arguments and gives (operator, function, arguments, result), or None to let the call
through to the finer net.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

from compressor.pruning.graph.recording.shapes import empty, fresh, no_dispatch

Call = tuple[str, Callable[..., Any], tuple[Any, ...], Any]


def _empty(shape: Any, like: Tensor) -> Tensor:
    with no_dispatch():
        return empty(shape, like)


def _several(value: Any, dims: int) -> list[int]:
    values = [value] * dims if isinstance(value, int) else list(value)
    return values * dims if len(values) == 1 else values


def _convolution(dims: int) -> Callable[..., Call | None]:
    def call(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Call | None:
        if input.dim() != dims + 2 or input.shape[1] != weight.shape[1] * groups:
            return None
        stride, dilation = _several(stride, dims), _several(dilation, dims)
        kernel = weight.shape[2:]
        if padding == "same":
            around = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
            if any(each % 2 for each in around):
                return None
            padding = [each // 2 for each in around]
        padding = _several(0 if padding == "valid" else padding, dims)
        space = [
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, p, d, k, s in zip(input.shape[2:], padding, dilation, kernel, stride, strict=True)
        ]
        if min(space) < 1:
            return None
        args = (input, weight, bias, stride, padding, dilation, False, [0] * dims, groups)
        result = _empty((input.shape[0], weight.shape[0], *space), input)
        return "convolution", convolution, args, result

    return call


def _transposed(dims: int) -> Callable[..., Call | None]:
    def call(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Call | None:
        if input.dim() != dims + 2 or input.shape[1] != weight.shape[0]:
            return None
        stride, padding, dilation = _several(stride, dims), _several(padding, dims), _several(dilation, dims)
        more = _several(output_padding, dims)
        space = [
            (size - 1) * s - 2 * p + d * (k - 1) + o + 1
            for size, s, p, d, k, o in zip(
                input.shape[2:], stride, padding, dilation, weight.shape[2:], more, strict=True
            )
        ]
        args = (input, weight, bias, stride, padding, dilation, True, more, groups)
        result = _empty((input.shape[0], weight.shape[1] * groups, *space), input)
        return "convolution", convolution, args, result

    return call


def convolution(
    x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, *more: Any
) -> Tensor:
    """ATen's convolution, all dimensions and transposed ones alike."""
    return torch.ops.aten.convolution.default(x, weight, bias, stride, padding, dilation, *more)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call | None:
    if weight.dim() != 2 or input.shape[-1] != weight.shape[1]:
        return None
    return "linear", F.linear, (input, weight, bias), _empty((*input.shape[:-1], weight.shape[0]), input)


def _matmul(input: Any, other: Any) -> Call | None:
    if not (isinstance(input, Tensor) and isinstance(other, Tensor)) or min(input.dim(), other.dim()) < 2:
        return None
    if input.shape[-1] != other.shape[-2] or input.dtype != other.dtype:
        return None
    batch = torch.broadcast_shapes(input.shape[:-2], other.shape[:-2])
    result = _empty((*batch, input.shape[-2], other.shape[-1]), input)
    return "matmul", torch.matmul, (input, other), result


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Call | None:
    if query.dim() < 3 or enable_gqa or query.shape[-1] != key.shape[-1]:
        return None
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    batch = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    result = _empty((*batch, query.shape[-2], value.shape[-1]), query)
    return (
        "attention",
        attention,
        (query, key, value, attn_mask, is_causal, scale, dropout_p, dropout_p > 0),
        result,
    )


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float, p: float, training: bool
) -> Tensor:
    """Scaled dot products; the scale is said, since its default follows the width of a head."""
    return F.scaled_dot_product_attention(q, k, v, mask, p if training else 0.0, causal, scale=scale)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> Call:
    args = (input, running_mean, running_var, weight, bias, training, momentum, eps)
    return "batch_norm", F.batch_norm, args, fresh(input)


def _layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Call | None:
    shape = list(normalized_shape)
    if list(input.shape[-len(shape) :]) != shape:
        return None
    return "layer_norm", F.layer_norm, (input, shape, weight, bias, eps), _empty(input.shape, input)


def _rms_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> Call | None:
    shape = list(normalized_shape)
    if list(input.shape[-len(shape) :]) != shape:
        return None
    return "rms_norm", F.rms_norm, (input, shape, weight, eps), _empty(input.shape, input)


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Call | None:
    if input.shape[1] % num_groups:
        return None
    return "group_norm", F.group_norm, (input, num_groups, weight, bias, eps), _empty(input.shape, input)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Call:
    args = (input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    return "instance_norm", F.instance_norm, args, fresh(input)


def _local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Call:
    return "local_response_norm", F.local_response_norm, (input, size, alpha, beta, k), fresh(input)


def _adaptive_pool(operator: str, function: Callable[..., Tensor], dims: int) -> Callable[..., Call | None]:
    def call(input: Tensor, output_size: Any) -> Call | None:
        sizes = [output_size] * dims if isinstance(output_size, int | None) else list(output_size)
        space = [old if new is None else new for old, new in zip(input.shape[-dims:], sizes, strict=True)]
        return operator, function, (input, space), _empty((*input.shape[:-dims], *space), input)

    return call


def _activation(operator: str, plain: Any, in_place: Any) -> Callable[..., Call | None]:
    """An activation that a layer may run in place: the ATen operator either way, without asking for its shape."""

    def call(input: Tensor, inplace: bool = False) -> Call | None:
        if not input.dtype.is_floating_point:
            return None
        if inplace:
            return f"{operator}_", in_place, (input,), input
        return operator, plain, (input,), fresh(input)

    return call


def _dropout(function: Callable[..., Tensor]) -> Callable[..., Call]:
    def call(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Call:
        # A tensor of its own, though evaluation passes the input on: what else reads that must not be dropped.
        return function.__name__, function, (input, p, training), fresh(input)

    return call


def drop_path(x: Tensor, p: float, per_sample: bool, training: bool) -> Tensor:
    """Stochastic depth: drop a whole branch, for each sample or for all, and scale what stays."""
    if has_torch_function_unary(x):
        return handle_torch_function(drop_path, (x,), x, p, per_sample, training)
    if not training or p == 0:
        return x
    shape = [x.shape[0] if per_sample else 1, *(1 for _ in x.shape[1:])]
    return x * torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(1 - p).div_(1 - p)


def _drop_path(x: Tensor, p: float, per_sample: bool, training: bool) -> Call:
    return "drop_path", drop_path, (x, p, per_sample, training), fresh(x)


def _recurrent(operator: str, function: Callable[..., Any], states: int) -> Callable[..., Call | None]:
    def call(input: Tensor, hx: Any, params: Any, has_biases: Any, *more: Any) -> Call | None:
        if not isinstance(has_biases, bool) or input.dim() != 3:  # packed sequences
            return None
        bidirectional = more[3]
        directions = 2 if bidirectional else 1
        hidden = hx[0] if states == 2 else hx
        output = _empty((*input.shape[:2], directions * hidden.shape[-1]), input)
        last = tuple(_empty(hidden.shape if i == 0 else hx[1].shape, input) for i in range(states))
        args = (input, hx if states == 1 else list(hx), list(params), has_biases, *more)
        return operator, function, args, (output, *last)

    return call


_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)

WHOLE: dict[Any, Callable[..., Call | None]] = {
    torch.conv1d: _convolution(1),
    torch.conv2d: _convolution(2),
    torch.conv3d: _convolution(3),
    torch.conv_transpose1d: _transposed(1),
    torch.conv_transpose2d: _transposed(2),
    torch.conv_transpose3d: _transposed(3),
    F.linear: _linear,
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm), _matmul),
    F.scaled_dot_product_attention: _attention,
    F.batch_norm: _batch_norm,
    **dict.fromkeys((F.layer_norm, torch.layer_norm), _layer_norm),
    **dict.fromkeys((F.rms_norm, torch.rms_norm), _rms_norm),
    **dict.fromkeys((F.group_norm, torch.group_norm), _group_norm),
    F.instance_norm: _instance_norm,
    F.adaptive_avg_pool2d: _adaptive_pool("adaptive_avg_pool2d", F.adaptive_avg_pool2d, 2),
    F.adaptive_avg_pool3d: _adaptive_pool("adaptive_avg_pool3d", F.adaptive_avg_pool3d, 3),
    F.relu: _activation("relu", torch.ops.aten.relu.default, torch.ops.aten.relu_.default),
    F.silu: _activation("silu", torch.ops.aten.silu.default, torch.ops.aten.silu_.default),
    F.hardswish: _activation(
        "hardswish", torch.ops.aten.hardswish.default, torch.ops.aten.hardswish_.default
    ),
    F.hardsigmoid: _activation(
        "hardsigmoid", torch.ops.aten.hardsigmoid.default, torch.ops.aten.hardsigmoid_.default
    ),
    F.local_response_norm: _local_response_norm,
    **{function: _dropout(function) for function in _DROPOUTS},
    drop_path: _drop_path,
    torch.lstm: _recurrent("lstm", torch.lstm, 2),
    torch.gru: _recurrent("gru", torch.gru, 1),
    torch.rnn_tanh: _recurrent("rnn_tanh", torch.rnn_tanh, 1),
    torch.rnn_relu: _recurrent("rnn_relu", torch.rnn_relu, 1),
}

COMPOSED = frozenset((F.multi_head_attention_forward,))
"""Python functions of torch that are made of the above, and hide it from the coarse net unless unguarded."""


def unguarded(function: Any) -> Any:
    """The same function without the check that hands it to the coarse net, so that its body runs under the net."""
    if function not in _unguarded:
        never = dict.fromkeys(
            ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"),
            lambda *_: False,
        )
        twin = FunctionType(
            function.__code__, {**function.__globals__, **never}, function.__name__, function.__defaults__
        )
        twin.__kwdefaults__ = function.__kwdefaults__
        _unguarded[function] = twin
    return _unguarded[function]


_unguarded: dict[Any, Any] = {}

CALLS: dict[str, Callable[..., Any]] = {
    "convolution": convolution,
    "linear": F.linear,
    "matmul": torch.matmul,
    "attention": attention,
    "batch_norm": F.batch_norm,
    "layer_norm": F.layer_norm,
    "rms_norm": F.rms_norm,
    "group_norm": F.group_norm,
    "instance_norm": F.instance_norm,
    "local_response_norm": F.local_response_norm,
    "adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "adaptive_avg_pool3d": F.adaptive_avg_pool3d,
    "drop_path": drop_path,
    **{function.__name__: function for function in _DROPOUTS},
    "lstm": torch.lstm,
    "gru": torch.gru,
    "rnn_tanh": torch.rnn_tanh,
    "rnn_relu": torch.rnn_relu,
}
"""The function that runs an operator that was recorded whole, by the operator's name."""

TRAINING_FLAGS: dict[str, int] = {
    "batch_norm": 5,
    "instance_norm": 5,
    **{function.__name__: 2 for function in _DROPOUTS},
    "drop_path": 3,
    "attention": 7,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), 6),
}
"""Operators that training switches, and the place of their flag among the arguments."""
