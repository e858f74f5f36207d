"""Combine the scores of a group's slots into one score per unit, and normalise groups to one scale."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def _first(slots: Numbers) -> Numbers:
    first: Numbers = slots[0]
    return first


COMBINATIONS: dict[str, Callable[[Numbers], Numbers]] = {
    "sum": lambda slots: slots.sum(axis=0),
    "mean": lambda slots: slots.mean(axis=0),
    "max": lambda slots: slots.max(axis=0),
    "first": _first,
}
"""Each takes one row per scored slot; the slots of layers that produce the channels come first."""


def _by(scale: float, scores: Numbers) -> Numbers:
    return scores / scale if scale > 0 else scores


NORMALISATIONS: dict[str, Callable[[Numbers, float], Numbers]] = {
    "none": lambda scores, price: scores,
    "mean": lambda scores, price: _by(float(np.abs(scores).mean()), scores),
    "max": lambda scores, price: _by(float(np.abs(scores).max()), scores),
    "per-macs": lambda scores, price: _by(price, scores),
}
"""Each takes the scores of a group and the MACs that one unit of it costs at full width.

Absolute values are averaged: the mean of scores with signs may be near 0.
"""
