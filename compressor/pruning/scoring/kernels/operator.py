"""The sums as an operator of torch, so that compiled and exported programs can contain them.

`torch.ops.compressor.channel_sums` runs the plain backend on a CPU and the kernel on a GPU. Scoring itself calls
`sums.channel_sums`: torch's dispatch of a few hundred tensors costs more time than the kernel takes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.library.custom_op("compressor::channel_sums", mutates_args=())
def channel_sums(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    numbers: Sequence[int],
    axes: Sequence[int],
    moments: str,
) -> list[Tensor]:
    """``[moments, channels]`` for each (number, axis) pair; ``moments`` by commas, ``gradients`` may be empty."""
    from compressor.pruning.scoring.kernels import sums

    pairs = list(zip(numbers, axes, strict=True))
    result = sums.channel_sums(weights, gradients or None, pairs, moments.split(","))
    if not result.values:
        return []
    # The values share one buffer, but an operator's results must not share memory: one launch copies them all.
    return list(torch._foreach_mul(result.values, 1.0))


@channel_sums.register_fake
def _(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    numbers: Sequence[int],
    axes: Sequence[int],
    moments: str,
) -> list[Tensor]:
    rows = len(moments.split(","))
    return [
        weights[number].new_empty((rows, weights[number].shape[axis]), dtype=torch.float64)
        for number, axis in zip(numbers, axes, strict=True)
    ]
