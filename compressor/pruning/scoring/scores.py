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
    count alike. ``backend`` says who did the sums, ``fallback`` why not the kernel where one was expected.
    """

    criterion: str
    by_group: Mapping[str, NDArray[np.float64]]
    combine: str = "sum"
    normalise: str = "mean"
    backend: str = "torch"
    unscored: tuple[str, ...] = ()
    fallback: str | None = None

    def of(self, group: str) -> NDArray[np.float64]:
        """The scores of one group, unit by unit."""
        return self.by_group[group]

    def to_dict(self) -> dict[str, str | None]:
        """How the scores came to be, as plain JSON values."""
        return {
            "criterion": self.criterion,
            "combine": self.combine,
            "normalise": self.normalise,
            "backend": self.backend,
            "fallback": self.fallback,
        }

    def to_bytes(self) -> bytes:
        """The content of ``scores.safetensors``: one array per group."""
        about = {name: text for name, text in self.to_dict().items() if text is not None}
        return save(dict(self.by_group), metadata=about)
