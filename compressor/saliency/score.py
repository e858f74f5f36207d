"""Score every unit of a channel graph with one criterion.

Data-driven criteria stream batches at constant memory, in evaluation mode (running statistics stay as
they are), on a copy, so that gradients, hooks and statistics of the caller's network are untouched.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.data.split import Batch
from compressor.errors import CompressError, UsageError, unknown_name
from compressor.graph.channels import ChannelGraph, Group
from compressor.saliency.criteria import CRITERIA, Criterion
from compressor.saliency.scores import Scores

Axes = dict[tuple[str, int], Tensor]


def score(
    network: nn.Module,
    graph: ChannelGraph,
    criterion: str,
    batches: Iterable[Batch] = (),
    *,
    device: torch.device | str = "cpu",
) -> Scores:
    """The scores of every cuttable unit of ``graph``; ``batches`` are read if the criterion needs them."""
    if criterion not in CRITERIA:
        raise unknown_name("criterion", criterion, CRITERIA)
    chosen = CRITERIA[criterion]
    network = copy.deepcopy(network).to(device).eval()
    axes = _from_gradients(network, graph, chosen, batches, device) if chosen.needs_gradients else None
    if axes is None:
        axes = _per_axis(network, graph, chosen)
    return Scores(
        criterion,
        {group.name: _of_group(group, axes, chosen) for group in graph.groups},
        backend=f"torch on {torch.device(device).type}",
    )


def _from_gradients(
    network: nn.Module,
    graph: ChannelGraph,
    criterion: Criterion,
    batches: Iterable[Batch],
    device: torch.device | str,
) -> Axes:
    network.requires_grad_(True)
    total: Axes = {}
    count = 0
    for batch in batches:
        network.zero_grad(set_to_none=True)
        loss = F.cross_entropy(network(batch.images.to(device)), batch.labels.to(device))
        loss.backward()
        for key, values in _per_axis(network, graph, criterion).items():
            total[key] = values if key not in total else total[key] + values
        count += 1
    if not count:
        raise UsageError(
            "a data-driven criterion needs batches, and there are none", "give data, or choose l1"
        )
    if not all(bool(values.isfinite().all()) for values in total.values()):
        raise CompressError(
            "the gradients of the loss are not finite",
            "check the weights, and that images are normalised as in the teacher's training",
        )
    return {key: values / count for key, values in total.items()}


def _per_axis(network: nn.Module, graph: ChannelGraph, criterion: Criterion) -> Axes:
    """The formula, for every (parameter, axis) in which a cuttable group lives."""
    parameters = dict(network.named_parameters())
    kinds = {
        f"{name}.weight": "batch_norm.weight"
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    }
    axes: Axes = {}
    with torch.no_grad():
        for tensor, axis in {(s.tensor, s.axis) for group in graph.groups for s in group.slots}:
            if tensor in parameters:
                value = parameters[tensor]
                values = criterion.formula(kinds.get(tensor, ""), value, value.grad, axis)
                if values is not None:
                    axes[tensor, axis] = values.cpu().double()
    return axes


def _of_group(group: Group, axes: Axes, criterion: Criterion) -> NDArray[np.float64]:
    total = np.zeros(group.units)
    scored = 0
    for slot in group.slots:
        values = axes.get((slot.tensor, slot.axis))
        if values is not None:
            total += values.numpy()[slot.indices].sum(axis=1)
            scored += 1
    if not scored:  # nothing this criterion looks at (bn-scale without a norm): all units alike
        return np.ones(group.units)
    if criterion.normalise == "mean" and total.mean() > 0:
        total = total / total.mean()
    return total
