"""Scores: how much each unit of each group matters, and how they came to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save


@dataclass(frozen=True)
class Scores:
    """One number per unit of each group; larger matters more. Comparable across groups.

    ``unscored``: groups in which the criterion has nothing to look at (bn-scale without a norm); all their units
    count alike.
    """

    criterion: str
    by_group: Mapping[str, NDArray[np.float64]]
    backend: str = "torch"
    unscored: tuple[str, ...] = ()

    def of(self, group: str) -> NDArray[np.float64]:
        """The scores of one group, unit by unit."""
        return self.by_group[group]

    def to_bytes(self) -> bytes:
        """The content of ``scores.safetensors``: one array per group."""
        about = {"criterion": self.criterion, "backend": self.backend}
        return save(dict(self.by_group), metadata=about)
