"""Measure batch-norm statistics again with a few forward passes, so that they fit the current weights.

A layer that lost inputs gets other means and variances than its stored ones. And during training, running statistics
are averages over earlier weights: with a momentum of 0.01, as in EfficientNets and networks ported from TensorFlow,
over hundreds of steps. So they are measured again before a network is tested or returned.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressor.data.split import Split
from compressor.errors import CompressError, UsageError

CPU = torch.device("cpu")


@torch.no_grad()
def reestimate(
    network: nn.Module,
    split: Split,
    *,
    batches: int,
    batch: int = 128,
    seed: int = 0,
    device: torch.device = CPU,
) -> nn.Module:
    """A copy, on ``device`` and in eval mode, with newly measured running mean and variance.

    The statistics are the plain average over the first ``batches`` batches in the order of
    ``seed`` (fewer if one pass has fewer), not the exponential average of training. Only
    batch norms are in training mode during the measurement: dropout would change the inputs of
    the layers behind it. A network without batch norm is returned as an equal copy.

    A network that is a program has no modules with a mode. Instead it has ``averaging``: the number of the batch
    (from 1) that its norms average with the earlier ones, 0 when nothing is measured.
    """
    if batches < 1:
        raise UsageError(f"`batches` is {batches}, expected at least 1")
    measured = copy.deepcopy(network).to(device).eval()
    images = (item.images.to(device) for item in islice(split.batches(batch, shuffle=seed), batches))
    if has_statistics(measured) and not measure_statistics(measured, images):
        raise CompressError("batch-norm statistics cannot be measured: the split is empty")
    return measured


def has_statistics(network: nn.Module) -> bool:
    """True if the network has batch norms with running statistics."""
    return bool(_norms(network) or _programs(network))


@torch.no_grad()
def measure_statistics(network: nn.Module, images: Iterable[Tensor]) -> int:
    """Set the statistics of a network in eval mode to those of these batches, in place; return the batch count."""
    norms, programs = _norms(network), _programs(network)
    momenta = [norm.momentum for norm in norms]
    counts = [
        None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms
    ]
    number = 0
    for batch in images:
        if not number:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # None means plain cumulative average in torch
                norm.training = True
        number += 1
        for program in programs:
            program.averaging = number
        network(batch)
    for program in programs:
        program.averaging = 0
    for norm, momentum, count in zip(norms, momenta, counts, strict=True):
        norm.momentum = momentum
        norm.training = False
        if count is not None and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.copy_(count)
    return number


def _norms(network: nn.Module) -> list[_BatchNorm]:
    return [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


def _programs(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if hasattr(module, "averaging")]
