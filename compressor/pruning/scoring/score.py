"""Score every unit of a channel graph with one criterion.

Batches stream at constant memory. The caller's network is recorded and its recording is run again on its own
tensors, batch norms in inference mode: nothing of it is touched, neither gradients nor hooks nor running statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from compressor.base.imports import load_attribute
from compressor.data.split import Batch
from compressor.errors import CompressError, UsageError, unknown_name
from compressor.models.copying import require_numbers
from compressor.pruning.graph.channels import ChannelGraph, Group
from compressor.pruning.graph.cost import costs_of, full_widths
from compressor.pruning.scoring.channel_outputs import Key
from compressor.pruning.scoring.combine import COMBINATIONS, NORMALISATIONS, Numbers
from compressor.pruning.scoring.criteria import CRITERIA, Criterion, Seen
from compressor.pruning.scoring.measurements import Loss, Measured, Measuring, cross_entropy
from compressor.pruning.scoring.scores import Scores
from compressor.recipe.saliency import Scoring


def score(
    network: nn.Module,
    graph: ChannelGraph,
    scoring: Scoring | str,
    batches: Iterable[Batch] = (),
    *,
    teacher: nn.Module | None = None,
    loss: Loss = cross_entropy,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Scores:
    """The scores of every cuttable unit of ``graph``; ``batches`` are read if the criterion needs them.

    ``teacher``: who taught this network, for ``gate-cascade``; ``loss`` is a function of the network's output and the
    batch, its mean over the batch.
    """
    asked = Scoring(scoring) if isinstance(scoring, str) else scoring
    axes = score_axes(network, graph, asked, batches, teacher=teacher, loss=loss, seed=seed, device=device)
    return gather(graph, axes, asked)


@dataclass(frozen=True)
class AxisScores:
    """What a criterion says of every axis that a cuttable group lives on, and who did the sums."""

    by_axis: Mapping[Key, Numbers]
    backend: str
    fallback: str | None = None


def score_axes(
    network: nn.Module,
    graph: ChannelGraph,
    scoring: Scoring,
    batches: Iterable[Batch] = (),
    *,
    teacher: nn.Module | None = None,
    loss: Loss = cross_entropy,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> AxisScores:
    """The criterion's formula on every axis, averaged over the batches: all that takes time in `score`."""
    chosen = criterion_named(scoring.criterion)
    require_numbers(network)
    measuring = Measuring(network, graph, chosen.measures, loss, torch.device(device))
    if teacher is not None and chosen.by_teacher:
        measuring = measuring.taught_by(teacher)
    total: dict[Key, Tensor] = {}
    images = 0
    for measured in measuring.over(batches) if chosen.reads_data else [measuring.weights()]:
        for key, values in _by_formula(chosen, measured, scoring, seed).items():
            added = values * measured.images
            total[key] = added if key not in total else total[key] + added
        images += measured.images
    if not images:
        raise UsageError(
            f"criterion `{scoring.criterion}` needs batches, and there are none",
            "give data, or choose l2",
        )
    by_axis = {key: (values / images).cpu().numpy() for key, values in total.items()}
    return AxisScores(by_axis, measuring.backend, measuring.fallback)


def gather(graph: ChannelGraph, axes: AxisScores, scoring: Scoring) -> Scores:
    """From axes to units and groups, on one scale."""
    criterion = criterion_named(scoring.criterion)
    combine, normalise = scoring.combine or criterion.combine, scoring.normalise or criterion.normalise
    together, normalised = COMBINATIONS[combine], NORMALISATIONS[normalise]
    prices = macs_of_a_unit(graph)
    unscored: list[str] = []
    by_group: dict[str, Numbers] = {}
    for group in graph.groups:
        slots = _slots(group, axes.by_axis)
        if len(slots):
            by_group[group.name] = normalised(together(slots), prices[group.name])
        else:
            by_group[group.name] = np.ones(group.units)
            unscored.append(group.name)
    if graph.groups and len(unscored) == len(graph.groups):
        raise UsageError(
            f"criterion `{scoring.criterion}` has nothing to look at in this network",
            "`l2` looks at every weight",
        )
    return Scores(
        scoring.criterion, by_group, combine, normalise, axes.backend, tuple(unscored), axes.fallback
    )


def criterion_named(name: str) -> Criterion:
    """A criterion of the table; ``package.module:name`` is a formula over weights, or a whole ``Criterion``."""
    if name in CRITERIA:
        return CRITERIA[name]
    if ":" not in name:
        raise unknown_name("criterion", name, CRITERIA)
    found = load_attribute(name, "criterion")
    return found if isinstance(found, Criterion) else Criterion(found, ("abs_w", "w2"))


def _by_formula(criterion: Criterion, measured: Measured, asked: Scoring, seed: int) -> Mapping[Key, Tensor]:
    found: dict[Key, Tensor] = {}
    for (tensor, axis), values in measured.by_axis.items():
        if any(name not in values for name in criterion.measures):
            continue  # not to be seen there: no gradient, no map
        seen = Seen(
            tensor,
            axis,
            measured.kinds[tensor],
            (tensor, axis) in measured.produces,
            measured.tensors[tensor],
            values,
            seed,
        )
        result = criterion(seen)
        if result is None:
            continue
        size = seen.value.shape[axis]
        if not isinstance(result, Tensor) or tuple(result.shape) != (size,):
            what = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise CompressError(
                f"criterion `{asked.criterion}` gives {what} for axis {axis} of `{tensor}`, "
                f"expected {size} numbers",
                "one for each index of the axis, or None",
            )
        result = result.detach().double()
        if not result.isfinite().all():
            raise CompressError(
                f"the scores of `{tensor}` by `{asked.criterion}` are not finite{measured.where}",
                "check the weights, and that images are normalised as in the teacher's training",
            )
        found[tensor, axis] = result
    return found


def _slots(group: Group, by_axis: Mapping[Key, Numbers]) -> Numbers:
    """A row of scores for every slot that has any, those of layers that make the channels first."""
    made = {(slot.tensor, slot.axis) for slot in group.produces}
    slots = sorted(group.slots, key=lambda slot: (slot.tensor, slot.axis) not in made)
    rows = [
        by_axis[slot.tensor, slot.axis][slot.indices].sum(axis=1)
        for slot in slots
        if (slot.tensor, slot.axis) in by_axis
    ]
    return np.array(rows, dtype=np.float64)


def macs_of_a_unit(graph: ChannelGraph) -> dict[str, float]:
    """What goes with one unit of each group while all else stays."""
    macs, full = costs_of(graph)["macs"], full_widths(graph)
    prices: dict[str, float] = {}
    for number, group in enumerate(graph.groups):
        fewer = full.copy()
        fewer[number] -= 1
        prices[group.name] = float(macs.of(full) - macs.of(fewer))
    return prices
