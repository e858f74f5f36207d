"""Scores: the importance of each unit of each group, and how it was computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save


@dataclass(frozen=True)
class Scores:
    """One number per unit of each group; a larger one is more important. Comparable across groups.

    ``unscored``: groups that the criterion cannot score (bn-scale without a norm); all their units get the same
    score. ``backend`` computed the sums; ``fallback`` is the reason where the kernel was expected and not used.
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
        """The settings and the backend that gave the scores, as plain JSON values."""
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
