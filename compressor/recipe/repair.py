"""Settings of a repair. Values only, without torch, so that a recipe is read quickly."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.errors import UsageError
from compressor.recipe.setting import setting


@dataclass(frozen=True)
class Repairing:
    """Number of training images on which every cut network is fitted; 0 for no repair.

    More images give more (docs/repair.md has the table); labels and augmentation are not used.
    """

    images: int = setting(
        512, "Training images on which every cut network is fitted to its teacher; 0: no repair"
    )

    def __post_init__(self) -> None:
        if self.images < 0:
            raise UsageError(f"repair.images is {self.images}, expected at least 0")
