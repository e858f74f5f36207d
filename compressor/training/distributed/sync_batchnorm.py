"""Batch norms with statistics over the whole batch when every process has a piece of it.

torch's own `SyncBatchNorm` works only on CUDA and replaces modules. Here the function `F.batch_norm` is replaced
while a block runs: modules keep their names and classes, networks that are built during the block need no change,
and it works for students that are programs, which have no modules to replace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from compressor.training.distributed.exchange import Exchange


def synchronised(exchange: Exchange) -> AbstractContextManager[Any]:
    """While the block runs, batch norms in training mode compute their statistics over the pieces of all processes."""
    return nullcontext() if exchange.world.size == 1 else _Synchronised(exchange)


class _Synchronised(TorchFunctionMode):
    def __init__(self, exchange: Exchange) -> None:
        super().__init__()
        self._exchange = exchange

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func is F.batch_norm:
            return _batch_norm(self._exchange, *args, **named)
        return func(*args, **named)


def _batch_norm(
    exchange: Exchange,
    images: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` over the pieces of all processes."""
    if not training:
        return F.batch_norm(images, running_mean, running_var, weight, bias, training, momentum, eps)
    normed, mean, var, count = _Normed.apply(images, eps, exchange)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = var * (count / (count - 1).clamp(min=1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    shape = [1, -1] + [1] * (images.ndim - 2)
    wide = torch.promote_types(images.dtype, torch.float32)
    if weight is not None:
        normed = normed * weight.to(wide).view(shape)
    if bias is not None:
        normed = normed + bias.to(wide).view(shape)
    return normed.to(images.dtype)


class _Normed(torch.autograd.Function):
    """x̂ = (x − μ) / √(σ² + ε), μ and σ² over the batch of N values a channel (Ioffe and Szegedy 2015).

    Each process sends its count n, its mean and Σ (x − mean)²; combining these avoids cancellation. Backward:
    dx = (dx̂ − Σ dx̂ / N − x̂ · Σ (dx̂ · x̂) / N) / √(σ² + ε), with sums over the batch.
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, eps: float, exchange: Exchange
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        channels = images.shape[1]
        wide = images.to(torch.promote_types(images.dtype, torch.float32))
        over = [axis for axis in range(images.ndim) if axis != 1]
        own = images.numel() // channels
        var, mean = torch.var_mean(wide, over, correction=0)
        sent = torch.cat([mean.double(), var.double() * own, mean.new_full((1,), own, dtype=torch.float64)])
        rows = exchange.rows(sent)
        means, squares, counts = rows[:, :channels], rows[:, channels:-1], rows[:, -1:]
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        var = (squares + counts * (means - mean).square()).sum(0) / count
        shape = [1, -1] + [1] * (images.ndim - 2)
        scale = (var + eps).rsqrt()
        normed = (wide - mean.to(wide.dtype).view(shape)) * scale.to(wide.dtype).view(shape)
        ctx.save_for_backward(normed, scale, count)
        ctx.exchange, ctx.over, ctx.shape = exchange, over, shape
        ctx.mark_non_differentiable(mean, var, count)
        return normed, mean, var, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        normed, scale, count = ctx.saved_tensors
        gradient = gradients[0]
        sums = torch.cat([gradient.sum(ctx.over), (gradient * normed).sum(ctx.over)])
        whole = ctx.exchange.rows(sums.double()).sum(0) / count
        plain, along = (part.to(gradient.dtype).view(ctx.shape) for part in whole.chunk(2))
        return (gradient - plain - normed * along) * scale.to(gradient.dtype).view(ctx.shape), None, None
