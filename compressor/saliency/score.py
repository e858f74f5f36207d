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

from compressor.copying import require_numbers
from compressor.data.split import Batch
from compressor.errors import CompressError, UsageError, unknown_name
from compressor.graph.channels import ChannelGraph, Group, Slot
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
    require_numbers(network)
    network = copy.deepcopy(network).to(device).eval()
    axes = _from_gradients(network, graph, chosen, batches, device) if chosen.needs_gradients else None
    if axes is None:
        axes = _per_axis(network, graph, chosen)
    unscored = tuple(group.name for group in graph.groups if not _slots_scored(group, axes))
    if graph.groups and len(unscored) == len(graph.groups):
        raise UsageError(
            f"criterion `{criterion}` has nothing to look at in this network", "`l2` looks at every weight"
        )
    broken = next((tensor for (tensor, _), values in axes.items() if not values.isfinite().all()), None)
    if broken is not None:
        raise CompressError(
            f"the scores of `{broken}` are not finite",
            "check the weights, and that images are normalised as in the teacher's training",
        )
    return Scores(
        criterion,
        {group.name: _of_group(group, axes, chosen) for group in graph.groups},
        backend=f"torch on {torch.device(device).type}",
        unscored=unscored,
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


def _slots_scored(group: Group, axes: Axes) -> list[Slot]:
    return [slot for slot in group.slots if (slot.tensor, slot.axis) in axes]


def _of_group(group: Group, axes: Axes, criterion: Criterion) -> NDArray[np.float64]:
    slots = _slots_scored(group, axes)
    if not slots:
        return np.ones(group.units)
    total = np.zeros(group.units)
    for slot in slots:
        total += axes[slot.tensor, slot.axis].numpy()[slot.indices].sum(axis=1)
    if criterion.normalise == "mean" and total.mean() > 0:
        total = total / total.mean()
    return total
