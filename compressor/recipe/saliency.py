"""Settings of scoring: the criterion, and how the scores of a group's layers are combined."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.errors import unknown_name
from compressor.recipe.names import COMBINATIONS, NORMALISATIONS
from compressor.recipe.setting import setting


@dataclass(frozen=True)
class Scoring:
    """The criterion, by its name or as ``package.module:function``, and how scores become comparable.

    A group lives in several slots, each with a score of its own: ``combine`` makes one of them (``sum``, ``mean``,
    ``max``, or the ``first``, that of the layer which makes the channels). ``normalise`` puts groups on one scale:
    ``none``, by the ``mean`` or the ``max`` of the group, or ``per-macs``, the score for each MAC that a unit costs.
    Where one of the two is not given, the criterion's own is taken.
    """

    criterion: str = setting("lamp", "Criterion by which channels are scored, or package.module:function")
    combine: str = setting(
        "", "Score of a group from its layers: sum, mean, max or first; empty: as the criterion"
    )
    normalise: str = setting("", "Scale between groups: none, mean, max or per-macs; empty: as the criterion")

    def __post_init__(self) -> None:
        if self.combine and self.combine not in COMBINATIONS:
            raise unknown_name("combination of slots", self.combine, COMBINATIONS)
        if self.normalise and self.normalise not in NORMALISATIONS:
            raise unknown_name("normalisation", self.normalise, NORMALISATIONS)
