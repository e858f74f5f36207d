"""Losses on logits (N, classes): compare the student's with labels or with its teacher's.

Each returns the mean over the batch. The caller weights and adds them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compressor.training.losses.float32 import need_equal_shapes, wide


@wide
def cross_entropy(student: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """−log softmax(student)[label]; smoothing spreads that share of the label over all classes."""
    return F.cross_entropy(student, labels, label_smoothing=label_smoothing)


@wide
def kd(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """T² · KL(softmax(teacher/T) ‖ softmax(student/T)).

    Hinton, Vinyals, Dean 2015, section 2. The gradient of the divergence shrinks as 1/T²; the
    factor T² keeps its size relative to the labels' loss when the temperature is changed.
    """
    return kd_each(student, teacher, temperature=temperature).mean()


@wide
def kd_each(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """`kd` of each image (N,)."""
    need_equal_shapes(student, teacher)
    log_p = F.log_softmax(teacher / temperature, dim=1)
    log_q = F.log_softmax(student / temperature, dim=1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1) * temperature**2


@wide
def dkd(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """T² · (α · TCKD + β · NCKD), Zhao et al. 2022, equation 7.

    TCKD = KL of (p_label, 1 − p_label); NCKD = KL of the other classes, renormalised. ``kd`` is the same with α = 1
    and β = the teacher's 1 − p_label, which makes NCKD small where the teacher is sure.
    """
    need_equal_shapes(student, teacher)
    # p is the teacher's, q the student's; label, rest: the label's class, all other classes together.
    is_label = F.one_hot(labels, student.shape[1]).bool()
    log_p, log_q = (F.log_softmax(logits / temperature, dim=1) for logits in (teacher, student))
    others_p, others_q = (logs.masked_fill(is_label, -torch.inf) for logs in (log_p, log_q))
    rest_p, rest_q = (logs.logsumexp(dim=1) for logs in (others_p, others_q))
    label_p, label_q = (logs[is_label] for logs in (log_p, log_q))
    tckd = label_p.exp() * (label_p - label_q) + rest_p.exp() * (rest_p - rest_q)
    among_p, among_q = log_p - rest_p[:, None], log_q - rest_q[:, None]
    nckd = (among_p.exp() * (among_p - among_q)).masked_fill(is_label, 0).sum(dim=1)
    return (alpha * tckd + beta * nckd).mean() * temperature**2


@wide
def dist(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, inter: float = 1.0, intra: float = 1.0
) -> Tensor:
    """T² · (inter · mean_i (1 − ρ(s_i, t_i)) + intra · mean_c (1 − ρ(s_·c, t_·c))), ρ Pearson's correlation.

    Huang et al. 2022, section 3.2, s and t probabilities: it compares the relations between classes for
    an image, and between images for a class. The second part needs the whole batch.
    """
    need_equal_shapes(student, teacher)
    s, t = ((logits / temperature).softmax(dim=1) for logits in (student, teacher))
    across_classes = 1 - _pearson(s, t).mean()
    across_images = 1 - _pearson(s.t(), t.t()).mean()
    return (inter * across_classes + intra * across_images) * temperature**2


@wide
def ofa(
    student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float = 1.0, gamma: float = 1.0
) -> Tensor:
    """−Σ_c [(p_c + 1[c = label])^γ − 1[c = label]] · log q_c, p the teacher's and q the student's.

    Hao et al. 2023, section 3.3. γ > 1 sharpens the label by the teacher's confidence: for teachers of another
    architecture.
    """
    need_equal_shapes(student, teacher)
    is_label = F.one_hot(labels, student.shape[1]).to(student)
    p = (teacher / temperature).softmax(dim=1)
    log_q = F.log_softmax(student / temperature, dim=1)
    return -(((p + is_label) ** gamma - is_label) * log_q).sum(dim=1).mean()


@wide
def comparative(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over pairs i ≠ j of ‖(s_i − s_j) − (t_i − t_j)‖²; Wilf et al. 2023.

    Only differences between logits are matched, so a constant error of the teacher costs nothing. The mean over
    pairs is twice the variance of s − t over the batch, summed over classes. It needs the whole batch.
    """
    need_equal_shapes(student, teacher)
    errors = student - teacher
    return 2 * (errors - errors.mean(dim=0)).square().sum() / (len(errors) - 1)


def _pearson(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's correlation of each pair of rows."""
    return F.cosine_similarity(one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True), dim=1)
