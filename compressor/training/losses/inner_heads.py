"""Losses on answers that are given on the way: by heads on inner layers, for a batch before, for changed images.

Who makes the heads, and what they learn by themselves, is decided elsewhere; here they have answered already.
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
    """The same between heads that tell class and turn, 4 · classes answers; Yang et al. 2021, equation 8."""
    return kd(student, teacher, temperature=temperature)


@wide
def drg(student: Tensor, middle: Tensor, *, temperature: float = 4.0) -> Tensor:
    """`kd` of what the student says after what a head in its middle says, which is given; Xu et al. 2023, DRG."""
    return kd(student, middle.detach(), temperature=temperature)


@wide
def dsr(student: Tensor, before: Tensor, *, temperature: float = 4.0) -> Tensor:
    """`kd` of the shapes of answers, each sorted, after those of the batch before; Xu et al. 2023, DSR."""
    mine, theirs = (each.sort(dim=1).values for each in (student, before))
    return kd(mine, theirs.detach(), temperature=temperature)


@wide
def adversarial(judged: Tensor) -> Tensor:
    """−log D(p), D the sigmoid of what a judge says of the student's answers; Goodfellow et al. 2014, section 3."""
    return F.softplus(-judged).mean()


@wide
def tst(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """`kd` on images changed so that it is large, while the teacher is right; Li et al. 2023."""
    return kd(student, teacher, temperature=temperature)
