"""What is asked of scoring: the criterion, how a group's parts are put together, and who does the sums."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.errors import UsageError, unknown_name
from compressor.recipe.names import COMBINATIONS, NORMALISATIONS
from compressor.recipe.setting import setting

BACKENDS = ("auto", "torch", "cuda")


@dataclass(frozen=True)
class Scoring:
    """The criterion, by its name or as ``package.module:function``, and how scores become comparable.

    A group lives in several slots, each with a score of its own: ``combine`` makes one of them (``sum``, ``mean``,
    ``max``, or the ``first``, that of the layer which makes the channels). ``normalise`` puts groups on one scale:
    ``none``, by the ``mean`` or the ``max`` of the group, or ``per-macs``, the score for each MAC that a unit costs.
    Where one of the two is not given, the criterion's own is taken. ``batches`` of ``batch`` training images are read
    by criteria that need data. ``backend``: who sums weights and gradients; ``auto`` takes the kernel where it runs.
    """

    criterion: str = setting("lamp", "Criterion by which channels are scored, or package.module:function")
    combine: str = setting(
        "", "Score of a group from its layers: sum, mean, max or first; empty: as the criterion"
    )
    normalise: str = setting("", "Scale between groups: none, mean, max or per-macs; empty: as the criterion")
    batches: int = setting(8, "Batches of training images for criteria that read data")
    batch: int = setting(128, "Images of such a batch")
    backend: str = setting(
        "auto", "Implementation of the sums over weights and gradients: auto, torch or cuda"
    )

    def __post_init__(self) -> None:
        for name, number in (("batches", self.batches), ("batch", self.batch)):
            if number < 1:
                raise UsageError(f"saliency.{name} is {number}, expected at least 1")
        if self.combine and self.combine not in COMBINATIONS:
            raise unknown_name("combination of slots", self.combine, COMBINATIONS)
        if self.normalise and self.normalise not in NORMALISATIONS:
            raise unknown_name("normalisation", self.normalise, NORMALISATIONS)
        if self.backend not in BACKENDS:
            raise unknown_name("saliency backend", self.backend, BACKENDS)
