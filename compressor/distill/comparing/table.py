"""Which comparison computes which loss."""

from __future__ import annotations

from compressor.distill.comparing.adversaries import Changed, Judged
from compressor.distill.comparing.answers import Answers, Heads
from compressor.distill.comparing.comparison import Comparison
from compressor.distill.comparing.itself import Before, Middle
from compressor.distill.comparing.layers import (
    Centred,
    Embedded,
    Embeddings,
    Features,
    Mapped,
    Remembered,
    Shown,
)
from compressor.distill.comparing.turned import Similar, Turns
from compressor.distill.losses import LOSSES

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
"""Every loss that can stand beside the others; the labels are always there."""
