"""Loss functions, one formula each, and the table of all of them.

Each function returns a mean over the batch in at least float32. Their inputs (logits, layer outputs, embeddings) and
the weights between them are chosen by the callers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature

from torch import Tensor

from compressor.training.losses.contrast import crd, rrd, sskd
from compressor.training.losses.features import attention, fitnet, kd_plus
from compressor.training.losses.inner_heads import adversarial, drg, dsr, hsakd, multi_head, tst
from compressor.training.losses.logits import comparative, cross_entropy, dist, dkd, kd, kd_each, ofa
from compressor.training.losses.relations import ega, pkt, rkd, similarity_preserving

__all__ = [
    "LOSSES",
    "TEACHER_LOSSES",
    "Known",
    "adversarial",
    "attention",
    "comparative",
    "crd",
    "cross_entropy",
    "dist",
    "dkd",
    "drg",
    "dsr",
    "ega",
    "fitnet",
    "hsakd",
    "kd",
    "kd_each",
    "kd_plus",
    "multi_head",
    "ofa",
    "pkt",
    "rkd",
    "rrd",
    "similarity_preserving",
    "sskd",
    "tst",
]


@dataclass(frozen=True)
class Known:
    """A loss: its function, its kind of input, its usual weight and its requirements.

    ``looks_at``: ``answers`` (logits), ``features`` (layer outputs), ``channels`` (layer outputs, in the channels that
    the guide keeps), ``embeddings`` (features mapped to one space), ``heads`` (logits of heads on inner layers),
    ``itself`` (the student alone), ``turned`` (images in four directions), ``judged`` (output of an adversary) or
    ``changed`` (generated images). ``weight``: the usual one where cross-entropy has weight 1. ``labels``: it needs
    one label per image. ``whole_batch``: it compares the images of a batch.
    """

    function: Callable[..., Tensor]
    looks_at: str
    weight: float
    labels: bool = False
    whole_batch: bool = False

    @property
    def alone(self) -> bool:
        """True if it needs no teacher."""
        return self.looks_at == "itself"

    @property
    def tempered(self) -> bool:
        """True if it divides logits by the schedule's temperature."""
        return "temperature" in signature(self.function).parameters and self.looks_at == "answers"


LOSSES: dict[str, Known] = {
    "labels": Known(cross_entropy, "answers", 1.0, labels=True),
    "kd": Known(kd, "answers", 1.0),
    "dkd": Known(dkd, "answers", 1.0, labels=True),
    "dist": Known(dist, "answers", 1.0, whole_batch=True),
    "ofa": Known(ofa, "answers", 1.0, labels=True),
    "comparative": Known(comparative, "answers", 0.1, whole_batch=True),
    "pkt": Known(pkt, "features", 1.0, whole_batch=True),
    "similarity-preserving": Known(similarity_preserving, "features", 3000.0, whole_batch=True),
    "rkd": Known(rkd, "features", 25.0, whole_batch=True),
    "attention": Known(attention, "features", 1000.0),
    "same-channels": Known(fitnet, "channels", 1.0),
    "fitnet": Known(fitnet, "embeddings", 1.0),
    "kd++": Known(kd_plus, "embeddings", 2.0, labels=True),
    "ega": Known(ega, "embeddings", 1.0, whole_batch=True),
    "crd": Known(crd, "embeddings", 0.8),
    "rrd": Known(rrd, "embeddings", 1.0),
    "multi-head": Known(multi_head, "heads", 1.0, labels=True),
    "sskd": Known(sskd, "turned", 10.0, whole_batch=True),
    "hsakd": Known(hsakd, "turned", 1.0, labels=True),
    "adversarial": Known(adversarial, "judged", 0.1),
    "tst": Known(tst, "changed", 1.0, labels=True),
    "drg": Known(drg, "itself", 0.2, labels=True),
    "dsr": Known(dsr, "itself", 1.0, whole_batch=True),
}
"""All losses, by their names in recipes."""

TEACHER_LOSSES = tuple(name for name in LOSSES if LOSSES[name].looks_at == "answers" and name != "labels")
"""Losses that compare the student's logits with its teacher's; possible values of ``teacher_loss``."""
