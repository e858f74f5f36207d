"""Losses on logits (N, classes): what a student says, held against labels or against what its teacher says.

Each gives the mean over the batch. Weights between losses belong to whoever adds them up.
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
    factor T² keeps its share next to the labels' loss the same when the temperature is changed.
    """
    return kd_each(student, teacher, temperature=temperature).mean()


@wide
def kd_each(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """`kd` of each image (N,)."""
    need_equal_shapes(student, teacher)
    told = F.log_softmax(teacher / temperature, dim=1)
    said = F.log_softmax(student / temperature, dim=1)
    return F.kl_div(said, told, reduction="none", log_target=True).sum(dim=1) * temperature**2


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

    TCKD = KL of (p_label, 1 − p_label); NCKD = KL of the other classes among themselves. ``kd`` is the same with α = 1
    and β = the teacher's 1 − p_label, which silences NCKD where the teacher is sure.
    """
    need_equal_shapes(student, teacher)
    mine = F.one_hot(labels, student.shape[1]).bool()
    told, said = (F.log_softmax(each / temperature, dim=1) for each in (teacher, student))
    others_told, others_said = (each.masked_fill(mine, -torch.inf) for each in (told, said))
    rest_told, rest_said = (each.logsumexp(dim=1) for each in (others_told, others_said))
    own_told, own_said = (each[mine] for each in (told, said))
    target = own_told.exp() * (own_told - own_said) + rest_told.exp() * (rest_told - rest_said)
    among_told, among_said = told - rest_told[:, None], said - rest_said[:, None]
    among = (among_told.exp() * (among_told - among_said)).masked_fill(mine, 0).sum(dim=1)
    return (alpha * target + beta * among).mean() * temperature**2


@wide
def dist(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, inter: float = 1.0, intra: float = 1.0
) -> Tensor:
    """T² · (inter · mean_i (1 − ρ(s_i, t_i)) + intra · mean_c (1 − ρ(s_·c, t_·c))), ρ Pearson's correlation.

    Huang et al. 2022, section 3.2, on probabilities: what matters is the order of classes for
    an image, and of images for a class. The second needs the whole batch.
    """
    need_equal_shapes(student, teacher)
    said, told = ((each / temperature).softmax(dim=1) for each in (student, teacher))
    across_classes = 1 - _pearson(said, told).mean()
    across_images = 1 - _pearson(said.t(), told.t()).mean()
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
    mine = F.one_hot(labels, student.shape[1]).to(student)
    told = (teacher / temperature).softmax(dim=1)
    said = F.log_softmax(student / temperature, dim=1)
    return -(((told + mine) ** gamma - mine) * said).sum(dim=1).mean()


@wide
def comparative(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over pairs i ≠ j of ‖(s_i − s_j) − (t_i − t_j)‖²; Wilf et al. 2023.

    Only differences between answers are matched, so a constant error of the teacher costs nothing. The sum over
    pairs is twice the spread of s − t around its mean. The whole batch is needed.
    """
    need_equal_shapes(student, teacher)
    apart = student - teacher
    return 2 * (apart - apart.mean(dim=0)).square().sum() / (len(apart) - 1)


def _pearson(one: Tensor, other: Tensor) -> Tensor:
    """The correlation of each pair of rows."""
    return F.cosine_similarity(one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True), dim=1)
