"""Losses on other logits than those of the two outputs: of heads, of the last batch, or for changed images.

The comparisons build and train the heads; these functions get their logits.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from compressor.training.losses.float32 import wide
from compressor.training.losses.logits import kd


@wide
def multi_head(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """`kd` between two heads at corresponding layers; Wang, Singh and Yu 2020, L_aux without its labels."""
    return kd(student, teacher, temperature=temperature)


@wide
def hsakd(student: Tensor, teacher: Tensor, *, temperature: float = 3.0) -> Tensor:
    """`kd` between heads that predict class and turn, 4 · classes logits; Yang et al. 2021, equation 8."""
    return kd(student, teacher, temperature=temperature)


@wide
def drg(student: Tensor, middle: Tensor, *, temperature: float = 4.0) -> Tensor:
    """`kd` from a head on a middle layer (no gradient) to the student's own logits; Xu et al. 2023, DRG."""
    return kd(student, middle.detach(), temperature=temperature)


@wide
def dsr(student: Tensor, before: Tensor, *, temperature: float = 4.0) -> Tensor:
    """`kd` from the sorted logits of the last batch to the student's sorted logits; Xu et al. 2023, DSR."""
    own, target = (logits.sort(dim=1).values for logits in (student, before))
    return kd(own, target.detach(), temperature=temperature)


@wide
def adversarial(judged: Tensor) -> Tensor:
    """−log D(p), D the sigmoid of the judge's output for the student's logits; Goodfellow et al. 2014, section 3."""
    return F.softplus(-judged).mean()


@wide
def tst(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """`kd` on images that a generator changes so that it is large and the teacher stays right; Li et al. 2023."""
    return kd(student, teacher, temperature=temperature)
