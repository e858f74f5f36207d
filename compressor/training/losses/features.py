"""Losses on layer outputs, (N, C, H, W) or (N, C), image by image.

The student may have another number of channels; for ``fitnet`` and ``kd_plus`` map it to the teacher's first.
Where the sizes of the maps differ, the larger one is averaged down to the smaller.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from compressor.training.losses.float32 import rows, wide


@wide
def fitnet(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of (student − teacher)²; Romero et al. 2015, equation 3, divided by the number of features."""
    return F.mse_loss(*_alike(student, teacher))


@wide
def attention(student: Tensor, teacher: Tensor, *, form: str = "paper") -> Tensor:
    """Distance of the maps Q = Σ_c F_c², each flattened and of norm 1; Zagoruyko and Komodakis 2017, equation 2.

    ``paper``: ½ ‖Q_S − Q_T‖ for each image, divided by the elements of the map, as in its β = 1000. ``code``: the mean
    of (Q_S − Q_T)², as released.
    """
    own, target = (
        F.normalize(features.square().sum(dim=1).flatten(1), dim=1) for features in _alike(student, teacher)
    )
    if form == "code":
        return (own - target).square().mean()
    return ((own - target).square().sum(dim=1) + 1e-12).sqrt().mean() / 2 / own.shape[1]


@wide
def kd_plus(student: Tensor, teacher: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
    """Mean of 1 − ⟨s_i, e_y⟩ / max(‖s_i‖, ‖t_i‖), e_y the direction of the teacher's mean feature of the label.

    Wang et al. 2023. It rewards the direction of the class and a norm at least as large as the teacher's.
    ``centres``: the mean feature of each class (classes, C). Usual weight: 1 to 4.
    """
    own, target = (rows(pooled(features)) for features in (student, teacher))
    towards = F.normalize(centres, dim=1)[labels]
    length = own.norm(dim=1).maximum(target.norm(dim=1)).clamp_min(1e-12)
    return (1 - (own * towards).sum(dim=1) / length).mean()


def pooled(features: Tensor) -> Tensor:
    """Mean of each channel (N, C)."""
    return features.flatten(2).mean(dim=2) if features.ndim > 2 else features


def _alike(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.ndim != 4 or student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)
