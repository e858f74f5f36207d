"""Measure batch-norm statistics again after channels were cut.

A layer that lost inputs sees other means and variances than those it remembers. Measuring them
anew costs a few forward passes and gives back much of the accuracy before any training.
"""

from __future__ import annotations

import copy
from itertools import islice
from typing import Any

import torch
from torch import nn
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
    norms = [
        module
        for module in measured.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    programs: list[Any] = [module for module in measured.modules() if hasattr(module, "averaging")]
    if not norms and not programs:
        return measured
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for the plain cumulative average
        norm.training = True
    seen = 0
    for each in islice(split.batches(batch, shuffle=seed), batches):
        seen += 1
        for program in programs:
            program.averaging = seen
        measured(each.images.to(device))
    if seen == 0:
        raise CompressError("batch-norm statistics cannot be measured: the split is empty")
    for program in programs:
        program.averaging = 0
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.training = False
    return measured
