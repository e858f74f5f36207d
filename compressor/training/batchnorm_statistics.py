"""Batch-norm statistics that are those of the weights, measured by a few forward passes.

A layer that lost inputs sees other means and variances than those it remembers. And while a network learns, running
statistics are averages over weights that are gone: with a momentum of 0.01, as EfficientNets and ports of TensorFlow
have it, those of the last hundreds of steps. What is tested or handed out is measured anew.
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
    """A copy, on ``device`` and in eval mode, whose running mean and variance are measured anew.

    The statistics are the plain average over the first ``batches`` batches in the order of
    ``seed`` (fewer if one pass has fewer), not the exponential one that training keeps. Only
    batch norms are in training mode meanwhile: dropout would falsify what the layers behind it
    see. A network without batch norm comes back as an equal copy.

    A network that is a program has no modules to be put into a mode: it has ``averaging``, the number of the batch
    that its norms are to average with those before it.
    """
    if batches < 1:
        raise UsageError(f"`batches` is {batches}, expected at least 1")
    measured = copy.deepcopy(network).to(device).eval()
    images = (each.images.to(device) for each in islice(split.batches(batch, shuffle=seed), batches))
    if has_statistics(measured) and not measure_statistics(measured, images):
        raise CompressError("batch-norm statistics cannot be measured: the split is empty")
    return measured


def has_statistics(network: nn.Module) -> bool:
    """Whether there is anything to measure."""
    return bool(_norms(network) or _programs(network))


@torch.no_grad()
def measure_statistics(network: nn.Module, images: Iterable[Tensor]) -> int:
    """Give a network in eval mode the statistics of these batches, in place; how many batches there were."""
    norms, programs = _norms(network), _programs(network)
    momenta = [norm.momentum for norm in norms]
    counts = [
        None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms
    ]
    seen = 0
    for batch in images:
        if not seen:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch's word for the plain cumulative average
                norm.training = True
        seen += 1
        for program in programs:
            program.averaging = seen
        network(batch)
    for program in programs:
        program.averaging = 0
    for norm, momentum, count in zip(norms, momenta, counts, strict=True):
        norm.momentum = momentum
        norm.training = False
        if count is not None and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.copy_(count)
    return seen


def _norms(network: nn.Module) -> list[_BatchNorm]:
    return [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


def _programs(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if hasattr(module, "averaging")]
