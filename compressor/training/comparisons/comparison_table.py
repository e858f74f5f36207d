"""Table of the comparison class for each loss."""

from __future__ import annotations

from compressor.training.comparisons.adversarial import Changed, Judged
from compressor.training.comparisons.comparison import Comparison
from compressor.training.comparisons.heads import Answers, Heads
from compressor.training.comparisons.inner_layers import (
    Centred,
    Embedded,
    Embeddings,
    Features,
    Mapped,
    Remembered,
    Shown,
)
from compressor.training.comparisons.rotations import Similar, Turns
from compressor.training.comparisons.self_distillation import Before, Middle
from compressor.training.losses import LOSSES

COMPARISONS: dict[str, type[Comparison]] = {
    **{name: Answers for name, loss in LOSSES.items() if loss.looks_at == "answers" and name != "labels"},
    **{name: Features for name, loss in LOSSES.items() if loss.looks_at == "features"},
    "rkd": Embeddings,
    "same-channels": Shown,
    "fitnet": Mapped,
    "ega": Embedded,
    "kd++": Centred,
    "crd": Remembered,
    "rrd": Remembered,
    "multi-head": Heads,
    "sskd": Similar,
    "hsakd": Turns,
    "adversarial": Judged,
    "tst": Changed,
    "drg": Middle,
    "dsr": Before,
}
"""All losses that a recipe may add in ``distil.losses``; the labels' loss is set by the schedule."""
