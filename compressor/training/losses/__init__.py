"""What a student may be told, one formula a function, and all of them in one table.

Each function gives a mean over the batch in at least float32. What they are given (answers, features of layers,
embeddings), and how much each counts beside the others, is decided elsewhere.
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
    """A loss: its function, what it looks at, and what it needs.

    ``looks_at``: ``answers`` (logits), ``features`` (outputs of layers), ``channels`` (the same, in those channels that
    the student is given), ``embeddings`` (features mapped to one space), ``heads`` (answers that inner layers give),
    ``itself`` (the student alone), ``turned`` (the images in four directions), ``judged`` (what an adversary says) or
    ``changed`` (images made for it). ``weight``: the usual one
    beside a cross-entropy of 1.
    """

    function: Callable[..., Tensor]
    looks_at: str
    weight: float
    labels: bool = False
    whole_batch: bool = False

    @property
    def alone(self) -> bool:
        """Whether it needs no teacher."""
        return self.looks_at == "itself"

    @property
    def tempered(self) -> bool:
        """Whether it softens answers by a temperature."""
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
"""Every loss by the name that a recipe gives."""

TEACHER_LOSSES = tuple(name for name in LOSSES if LOSSES[name].looks_at == "answers" and name != "labels")
"""Those by which a student can follow what its teacher says."""
