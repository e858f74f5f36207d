"""Score every unit of a channel graph with one criterion.

Batches stream at constant memory. The caller's network is recorded, and the recording runs again on the network's
tensors, batch norms in inference mode: gradients, hooks and running statistics of the network do not change.
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
from compressor.pruning.scoring.criteria import CRITERIA, Criterion, MeasuredSlot
from compressor.pruning.scoring.measurements import Loss, Measures, Measuring, cross_entropy
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

    ``teacher``: the teacher of this network, for ``gate-cascade``; ``loss`` is a function of the network's output and
    the batch that returns the mean over the batch.
    """
    options = Scoring(scoring) if isinstance(scoring, str) else scoring
    axes = score_axes(network, graph, options, batches, teacher=teacher, loss=loss, seed=seed, device=device)
    return gather(graph, axes, options)


@dataclass(frozen=True)
class AxisScores:
    """Scores of every weight axis of the cuttable groups, and the backend that computed the sums."""

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
    """The criterion's formula on every axis, averaged over the batches: the slow part of `score`."""
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
    """Combine the scores of axes into scores of units, and normalise them to one scale over all groups."""
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
            f"criterion `{scoring.criterion}` can score no group of this network",
            "choose a criterion that reads every weight, as `l2`",
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
    formula = load_attribute(name, "criterion")
    return formula if isinstance(formula, Criterion) else Criterion(formula, ("abs_w", "w2"))


def _by_formula(
    criterion: Criterion, measured: Measures, scoring: Scoring, seed: int
) -> Mapping[Key, Tensor]:
    """The criterion's scores of every axis that has all the measures it needs."""
    scores: dict[Key, Tensor] = {}
    for (tensor, axis), values in measured.by_axis.items():
        if any(name not in values for name in criterion.measures):
            continue  # not measurable there: no gradient, no map
        slot = MeasuredSlot(
            tensor,
            axis,
            measured.kinds[tensor],
            (tensor, axis) in measured.produces,
            measured.tensors[tensor],
            values,
            seed,
        )
        result = criterion(slot)
        if result is None:
            continue
        size = slot.value.shape[axis]
        if not isinstance(result, Tensor) or tuple(result.shape) != (size,):
            what = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise CompressError(
                f"criterion `{scoring.criterion}` gives {what} for axis {axis} of `{tensor}`, "
                f"expected {size} numbers",
                "return one number for each index of the axis, or None",
            )
        result = result.detach().double()
        if not result.isfinite().all():
            raise CompressError(
                f"the scores of `{tensor}` by `{scoring.criterion}` are not finite{measured.where}",
                "check the weights, and that images are normalised as in the teacher's training",
            )
        scores[tensor, axis] = result
    return scores


def _slots(group: Group, by_axis: Mapping[Key, Numbers]) -> Numbers:
    """A row of scores for every scored slot; the slots of layers that produce the channels come first."""
    made = {(slot.tensor, slot.axis) for slot in group.produces}
    slots = sorted(group.slots, key=lambda slot: (slot.tensor, slot.axis) not in made)
    rows = [
        by_axis[slot.tensor, slot.axis][slot.indices].sum(axis=1)
        for slot in slots
        if (slot.tensor, slot.axis) in by_axis
    ]
    return np.array(rows, dtype=np.float64)


def macs_of_a_unit(graph: ChannelGraph) -> dict[str, float]:
    """The MACs that removing one unit of each group saves, all other groups at full width."""
    macs, full = costs_of(graph)["macs"], full_widths(graph)
    prices: dict[str, float] = {}
    for number, group in enumerate(graph.groups):
        fewer = full.copy()
        fewer[number] -= 1
        prices[group.name] = float(macs.of(full) - macs.of(fewer))
    return prices
