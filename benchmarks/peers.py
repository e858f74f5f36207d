"""torch-pruning's own pruners, as its examples use them, brought to a share of the MACs."""

from __future__ import annotations

import copy
from importlib import import_module
from itertools import islice

import torch
from torch import nn

from compressor.data.split import Data
from compressor.profiling import count
from compressor.training.losses import cross_entropy

PEERS = {
    "taylor": ("taylor", True),
    "norm": ("norm", True),
    "taylor-uniform": ("taylor", False),
    "norm-uniform": ("norm", False),
}
"""Their criterion, and whether widths come from one threshold over all layers or every layer loses the same share."""


def pruned_to(name: str, teacher: nn.Module, data: Data, share: float, seed: int) -> nn.Module:
    """The network that is nearest to the teacher without ``share`` of its MACs."""
    image = torch.zeros(1, *data.shape)
    target = count(teacher, (image,)).macs * (1 - share)
    low, high = 0.0, 0.95
    best, nearest = teacher, float("inf")
    for _ in range(9):
        ratio = (low + high) / 2
        pruned = _pruned(*PEERS[name], copy.deepcopy(teacher), data, ratio, seed)
        macs = count(pruned, (image,)).macs
        if abs(macs - target) < abs(nearest - target):
            best, nearest = pruned, macs
        low, high = (ratio, high) if macs > target else (low, ratio)
    return best


def _pruned(
    criterion: str, one_threshold: bool, network: nn.Module, data: Data, ratio: float, seed: int
) -> nn.Module:
    tp = import_module("torch_pruning")
    kind, importance = {
        "taylor": (tp.pruner.MetaPruner, tp.importance.GroupTaylorImportance()),
        "norm": (tp.pruner.GroupNormPruner, tp.importance.GroupMagnitudeImportance(p=2)),
    }[criterion]
    pruner = kind(
        network,
        torch.zeros(1, *data.shape),
        importance=importance,
        global_pruning=one_threshold,
        pruning_ratio=ratio,
        max_pruning_ratio=0.9,
        ignored_layers=[[*(each for each in network.modules() if isinstance(each, nn.Linear))][-1]],
    )
    if criterion == "taylor":
        for batch in islice(data.train.batches(128, shuffle=seed), 10):
            cross_entropy(network(batch.images), batch.labels).backward()
    pruner.step()
    network.zero_grad(set_to_none=True)
    return network.eval()
