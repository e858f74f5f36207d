"""Criteria for the importance of a channel: each is a formula over the measures of one axis of one tensor.

A group consists of slots, each an axis of a tensor: rows of the weight that produces a channel, columns of the next
weight, entries of a norm. A formula reads one such axis and gives a number for each of its indices, or None where it
does not apply; the numbers of a unit are summed, and ``combine`` joins the slots. A larger score is more important.
``CRITERIA`` is the whole list. With batches, a formula is applied to each; the results are averaged by batch size.

The measures of an axis (``MEASURES``) are sums over all other dimensions of the tensor. The last three of the list
are of a layer's output instead: they are computed from the channel's own output, image by image.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

MEASURES = {
    "abs_w": "weights",
    "w2": "weights",
    "wg": "gradients",
    "abs_wg": "gradients",
    "wg2": "gradients",
    "gate": "outputs",
    "gate2": "outputs",
    "rank": "outputs",
}
"""Each measure and its source. Weights ``w`` with the gradient ``g`` of the loss: sums of |w|, w², w·g, |w·g| and
(w·g)². Outputs ``z`` of a layer: ``gate``, the mean over images of dL/dm where the channel is multiplied by a gate m,
that is the sum of z·dL/dz; ``gate2``, the mean of its square; ``rank``, the mean rank of the channel's map after the
norm and the activation that follow the layer."""

WEIGHT, SCALE, BATCH_NORM_SCALE, OTHER = "weight", "norm scale", "batch norm scale", "other"
"""Kinds of tensors: two or more dimensions, the scale of a norm, or another vector as a bias or a shift."""


@dataclass(frozen=True)
class MeasuredSlot:
    """Input of a formula: one axis of one tensor.

    ``measured`` holds the measures that the criterion needs, one float64 number per index; ``produces`` is True if
    the layer of this tensor produces the channels along this axis.
    """

    tensor: str
    axis: int
    kind: str
    produces: bool
    value: Tensor
    measured: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0


Formula = Callable[[MeasuredSlot], Tensor | None]


@dataclass(frozen=True)
class Criterion:
    """A formula, the measures it needs, and its default ways to combine and normalise scores.

    ``by_teacher``: the loss is that of a network trained with labels and a teacher together.
    """

    formula: Formula
    measures: tuple[str, ...] = ()
    combine: str = "sum"
    normalise: str = "mean"
    by_teacher: bool = False

    def __call__(self, slot: MeasuredSlot) -> Tensor | None:
        """The formula's numbers for one axis."""
        return self.formula(slot)

    @property
    def reads_data(self) -> bool:
        """True if batches are needed."""
        return any(MEASURES[name] != "weights" for name in self.measures)

    @property
    def needs_labels(self) -> bool:
        """True if the loss is needed: ranks are of layer outputs and do not depend on labels."""
        return any(MEASURES[name] != "weights" and name != "rank" for name in self.measures)


def l1(slot: MeasuredSlot) -> Tensor | None:
    """``sum |w|`` (Li et al. 2017, "Pruning Filters for Efficient ConvNets"), norms' scales included."""
    return None if slot.kind == OTHER else slot.measured["abs_w"]


def l2(slot: MeasuredSlot) -> Tensor | None:
    """``sum w²``, the squared length of the weights of a channel, norms' scales included."""
    return None if slot.kind == OTHER else slot.measured["w2"]


def bn_scale(slot: MeasuredSlot) -> Tensor | None:
    """``|gamma|`` of the batch norm behind a channel (Liu et al. 2017, "Network Slimming")."""
    return slot.value.abs().double() if slot.kind == BATCH_NORM_SCALE else None


def taylor(slot: MeasuredSlot) -> Tensor | None:
    """``|sum w·dL/dw|``: the first-order change of the loss when these weights become zero.

    Molchanov et al. 2017, equation 7, for the weights of a slot; for a batch norm these are gamma and beta. The size
    is taken batch by batch: over all the data the gradient of a trained network is next to nothing.
    """
    return slot.measured["wg"].abs()


def gate(slot: MeasuredSlot) -> Tensor | None:
    """``-dL/dm`` for a gate ``m`` on the channels that a layer makes: what the loss gains if it is closed.

    ``dL/dm = sum over images and positions of z·dL/dz``, z the layer's output before any mask (Miles and
    Mikolajczyk 2020). It has a sign: a channel that hurts scores below zero.
    """
    return -slot.measured["gate"] if slot.produces else None


def fisher(slot: MeasuredSlot) -> Tensor | None:
    """``1/2N sum over images of (dL/dm)²`` (Theis et al. 2018; Liu et al. 2021).

    ``dL/dm`` of one image as in `gate`, squared before it is averaged, so that its sign and the batch do not matter.
    """
    return slot.measured["gate2"] / 2 if slot.produces else None


def fpgm(slot: MeasuredSlot) -> Tensor | None:
    """``sum over j of |w_i - w_j|``: how far a filter is from all others of its layer.

    He et al. 2019, "Filter Pruning via Geometric Median": what lies in the middle can be replaced by the rest.
    """
    if not slot.produces or slot.kind != WEIGHT:
        return None
    rows = slot.value.movedim(slot.axis, 0).flatten(1).double()
    # Not by inner products: filters that are equal must have no distance.
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def lamp(slot: MeasuredSlot) -> Tensor | None:
    """``|w_i|² / sum of |w_j|² over all j with |w_j| >= |w_i|`` (Lee et al. 2021, for channels instead of weights).

    It is a channel's share of the weights that are still there when it is removed, so scores of different layers can
    be compared directly; divided by MACs it was the best criterion just after a cut (docs/criteria.md).
    """
    if slot.kind != WEIGHT:
        return None
    energy = slot.measured["w2"]
    ordered, order = energy.sort()
    remaining = ordered.flip(0).cumsum(0).flip(0)
    # Equal values count each other: all of them use the sum that starts at the first of them.
    first = torch.searchsorted(ordered, ordered)
    shares = torch.where(ordered > 0, ordered / remaining[first], 0.0)
    return torch.empty_like(shares).scatter_(0, order, shares)


def hrank(slot: MeasuredSlot) -> Tensor | None:
    """The mean rank of a channel's maps (Lin et al. 2020, "HRank"): a map of low rank carries little."""
    return slot.measured.get("rank") if slot.produces else None


def random(slot: MeasuredSlot) -> Tensor | None:
    """Random scores: the baseline that every other criterion must beat. The same seed gives the same scores."""
    if not slot.produces:
        return None
    lot = torch.Generator().manual_seed(zlib.crc32(f"{slot.seed}:{slot.tensor}:{slot.axis}".encode()))
    return torch.rand(slot.value.shape[slot.axis], generator=lot, dtype=torch.float64)


CRITERIA: dict[str, Criterion] = {
    "l1": Criterion(l1, ("abs_w",)),
    "l2": Criterion(l2, ("w2",)),
    "bn-scale": Criterion(bn_scale),
    "taylor": Criterion(taylor, ("wg",)),
    "gate": Criterion(gate, ("gate",)),
    "gate-cascade": Criterion(gate, ("gate",), by_teacher=True),
    "fisher": Criterion(fisher, ("gate2",)),
    "fpgm": Criterion(fpgm),
    "lamp": Criterion(lamp, ("w2",), normalise="per-macs"),
    "hrank": Criterion(hrank, ("rank",)),
    "random": Criterion(random, combine="first", normalise="none"),
}
"""``normalise`` is ``mean`` where only the order inside a group is meaningful. The size of a weight depends on its
fan-in; and a first-order change of the loss is accurate only while it is small: one threshold over raw values removed
nearly all of the early layers of the built-in network and nothing of the late ones."""
