"""How much a channel matters: each criterion is a formula over what was measured on one axis of one tensor.

A group lives in slots, each an axis of a tensor: rows of the weight that makes a channel, columns of the next one,
entries of a norm. A formula sees one such axis and gives a number for each of its indices, or None where it has no
say; what a unit owns there is summed, and ``combine`` puts slots together. Larger matters more. ``CRITERIA`` is the
whole list. With batches a formula is applied to each and its results are averaged by their size.

What can be measured on an axis (``MEASURES``) is summed over all other dimensions of the tensor, except the last
three, which stand for what a layer gives out: there the channel's own output is looked at, image by image.
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
"""Each measure and what it is taken from. Weights ``w`` with the gradient ``g`` of the loss: sums of |w|, w², w·g,
|w·g| and (w·g)². Outputs ``z`` of a layer: ``gate``, the mean over images of dL/dm where the channel is multiplied by
a gate m, that is the sum of z·dL/dz; ``gate2``, the mean of its square; ``rank``, the mean rank of the channel's map
after the norm and the activation behind the layer."""

WEIGHT, SCALE, BATCH_NORM_SCALE, OTHER = "weight", "norm scale", "batch norm scale", "other"
"""What a tensor is: of two or more dimensions, the factor of a norm, or a bias, a shift and the like."""


@dataclass(frozen=True)
class Seen:
    """What a formula sees: one axis of one tensor.

    ``measured`` has what the criterion asked for, one number an index, in float64; ``produces`` says whether the
    layer of this tensor makes the channels along this axis.
    """

    tensor: str
    axis: int
    kind: str
    produces: bool
    value: Tensor
    measured: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0


Formula = Callable[[Seen], Tensor | None]


@dataclass(frozen=True)
class Criterion:
    """A formula, what is measured for it, and how its scores are put together if nobody says otherwise.

    ``by_teacher``: the loss is that of a network which is itself taught, labels and teacher together.
    """

    formula: Formula
    measures: tuple[str, ...] = ()
    combine: str = "sum"
    normalise: str = "mean"
    by_teacher: bool = False

    def __call__(self, seen: Seen) -> Tensor | None:
        """The formula's numbers for one axis."""
        return self.formula(seen)

    @property
    def reads_data(self) -> bool:
        """Whether batches are needed."""
        return any(MEASURES[name] != "weights" for name in self.measures)

    @property
    def needs_labels(self) -> bool:
        """Whether the loss is asked for: ranks are of what a layer gives out, whatever the label."""
        return any(MEASURES[name] != "weights" and name != "rank" for name in self.measures)


def l1(seen: Seen) -> Tensor | None:
    """``sum |w|`` (Li et al. 2017, "Pruning Filters for Efficient ConvNets"), norms' scales included."""
    return None if seen.kind == OTHER else seen.measured["abs_w"]


def l2(seen: Seen) -> Tensor | None:
    """``sum w²``, the squared length of the weights of a channel, norms' scales included."""
    return None if seen.kind == OTHER else seen.measured["w2"]


def bn_scale(seen: Seen) -> Tensor | None:
    """``|gamma|`` of the batch norm behind a channel (Liu et al. 2017, "Network Slimming")."""
    return seen.value.abs().double() if seen.kind == BATCH_NORM_SCALE else None


def taylor(seen: Seen) -> Tensor | None:
    """``|sum w·dL/dw|``: the first-order change of the loss when these weights become zero.

    Molchanov et al. 2017, equation 7, for the weights of a slot; for a batch norm these are gamma and beta. The size
    is taken batch by batch: over all the data the gradient of a trained network is next to nothing.
    """
    return seen.measured["wg"].abs()


def gate(seen: Seen) -> Tensor | None:
    """``-dL/dm`` for a gate ``m`` on the channels that a layer makes: what the loss gains if it is closed.

    ``dL/dm = sum over images and positions of z·dL/dz``, z the layer's output before any mask (Miles and
    Mikolajczyk 2020). It has a sign: a channel that hurts scores below zero.
    """
    return -seen.measured["gate"] if seen.produces else None


def fisher(seen: Seen) -> Tensor | None:
    """``1/2N sum over images of (dL/dm)²`` (Theis et al. 2018; Liu et al. 2021).

    ``dL/dm`` of one image as in `gate`, squared before it is averaged, so that its sign and the batch do not matter.
    """
    return seen.measured["gate2"] / 2 if seen.produces else None


def fpgm(seen: Seen) -> Tensor | None:
    """``sum over j of |w_i - w_j|``: how far a filter is from all others of its layer.

    He et al. 2019, "Filter Pruning via Geometric Median": what lies in the middle can be replaced by the rest.
    """
    if not seen.produces or seen.kind != WEIGHT:
        return None
    rows = seen.value.movedim(seen.axis, 0).flatten(1).double()
    # Not by inner products: filters that are equal must have no distance.
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def lamp(seen: Seen) -> Tensor | None:
    """``|w_i|² / sum of |w_j|² over all j with |w_j| >= |w_i|`` (Lee et al. 2021, for channels instead of weights).

    The share of what would be lost of all that would still be there, so it compares across layers as it is; for each
    MAC that it costs it was the best of all just after a cut (docs/criteria.md).
    """
    if seen.kind != WEIGHT:
        return None
    energy = seen.measured["w2"]
    ordered, order = energy.sort()
    remaining = ordered.flip(0).cumsum(0).flip(0)
    # Of equals each counts the others: all have the sum that starts at the first of them.
    first = torch.searchsorted(ordered, ordered)
    shares = torch.where(ordered > 0, ordered / remaining[first], 0.0)
    return torch.empty_like(shares).scatter_(0, order, shares)


def hrank(seen: Seen) -> Tensor | None:
    """The mean rank of a channel's maps (Lin et al. 2020, "HRank"): a map of low rank carries little."""
    return seen.measured.get("rank") if seen.produces else None


def random(seen: Seen) -> Tensor | None:
    """By lot: the arm that every other criterion must beat. The same seed gives the same scores."""
    if not seen.produces:
        return None
    lot = torch.Generator().manual_seed(zlib.crc32(f"{seen.seed}:{seen.tensor}:{seen.axis}".encode()))
    return torch.rand(seen.value.shape[seen.axis], generator=lot, dtype=torch.float64)


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
"""``normalise`` is ``mean`` where only the order inside a group means something. A weight's size depends on its
fan-in; and a first-order change of the loss is trustworthy only while it is small: one threshold over raw values
emptied early layers of the built-in network and kept late ones whole."""
