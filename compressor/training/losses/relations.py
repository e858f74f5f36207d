"""Losses on relations between the images of a batch, for networks of any width and architecture.

Features are (N, …), flattened to one row for each image; only N × N relations are compared. All these losses
need the whole batch, because its halves have fewer pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compressor.training.losses.float32 import rows, wide

_TINY = 1e-7


@wide
def pkt(student: Tensor, teacher: Tensor, *, form: str = "paper") -> Tensor:
    """Compare the probabilities to pick j as the neighbour of i (p teacher, q student); Passalis et al. 2018 and 2020.

    p_(j|i) = K(x_i, x_j) / Σ_k K(x_i, x_k), with the cosine kernel ½ (cos + 1) and Student's kernel 1 / (1 + ‖a − b‖).

    - ``paper`` (2020, equations 5 to 8): Jeffreys' divergence Σ_j (p − q)(log p − log q) for each kernel, added,
      without i = j; the mean over i.
    - ``code``: the released version, with i = j and the mean over all pairs, which is smaller by the factor 1/N.
    - ``plain`` (2018): only the cosine kernel and Kullback-Leibler's divergence, mean over all pairs.
    """
    s, t = rows(student), rows(teacher)
    if form == "plain":
        p, q = (_shares(_cosine_kernel(x), diagonal=True) for x in (t, s))
        return (p * ((p + _TINY) / (q + _TINY)).log()).mean()
    total = torch.zeros((), device=s.device, dtype=s.dtype)
    for kernel in (_cosine_kernel, _student_kernel):
        p, q = (_shares(kernel(x), diagonal=form == "code") for x in (t, s))
        parts = (p - q) * ((p + _TINY).log() - (q + _TINY).log())
        total = total + (parts.mean() if form == "code" else parts.sum(dim=1).mean())
    return total


@wide
def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """1/N² · ‖G(teacher) − G(student)‖²_F, G the row-normalised x·xᵀ.

    Tung and Mori 2019, equation 4. Usual weight: 3000.
    """
    own, target = (F.normalize(x @ x.t(), dim=1) for x in (rows(student), rows(teacher)))
    return (target - own).square().mean()


@wide
def rkd(student: Tensor, teacher: Tensor, *, distances: float = 1.0, angles: float = 2.0) -> Tensor:
    """distances · Huber(ψ_D(t), ψ_D(s)) + angles · Huber(ψ_A(t), ψ_A(s)); Park et al. 2019, section 3.2.

    ψ_D = ‖x_i − x_j‖ over its mean, ψ_A = the cosine of the angle at j between i and k. Usual weight: 25.
    """
    s, t = rows(student), rows(teacher)
    lengths = [_distances(x) for x in (s, t)]
    scaled = [length / length[length > 0].mean().clamp_min(_TINY) for length in lengths]
    by_distance = F.smooth_l1_loss(scaled[0], scaled[1])
    by_angle = F.smooth_l1_loss(_angles(s), _angles(t))
    return distances * by_distance + angles * by_angle


@wide
def ega(student: Tensor, teacher: Tensor, *, edges: float = 0.3) -> Tensor:
    """‖C_TS − I‖_F + edges · ‖C_TT − C_SS‖_F, C the correlations between the embeddings of images; Ma et al. 2022.

    Teacher and student must have the same number of features: map one to the other first.
    """
    s, t = (_standard(rows(features)) for features in (student, teacher))
    size = s.shape[1]
    across = t @ s.t() / size
    nodes = torch.linalg.matrix_norm(across - torch.eye(len(s), device=s.device, dtype=s.dtype))
    between = torch.linalg.matrix_norm((t @ t.t() - s @ s.t()) / size)
    return nodes + edges * between


def _cosine_kernel(x: Tensor) -> Tensor:
    unit = x / (x.square().sum(dim=1, keepdim=True) + 1e-12).sqrt()
    return (unit @ unit.t() + 1) / 2


def _student_kernel(x: Tensor) -> Tensor:
    return 1 / (1 + (_squared_distances(x) + 1e-6).sqrt())


def _shares(kernel: Tensor, *, diagonal: bool) -> Tensor:
    if not diagonal:
        kernel = kernel * (1 - torch.eye(len(kernel), device=kernel.device, dtype=kernel.dtype))
    return kernel / kernel.sum(dim=1, keepdim=True)


def _squared_distances(x: Tensor) -> Tensor:
    norms = x.square().sum(dim=1)
    return (norms[:, None] + norms - 2 * x @ x.t()).clamp_min(0)


def _distances(x: Tensor) -> Tensor:
    """‖x_i − x_j‖; the diagonal is exactly 0 with gradient 0, where that of a square root would be infinite."""
    squared = _squared_distances(x)
    apart = ~torch.eye(len(x), device=x.device, dtype=torch.bool)
    return torch.where(apart, (squared + 1e-12).sqrt(), torch.zeros_like(squared))


def _angles(x: Tensor) -> Tensor:
    """cos ∠(i, j, k) for all triples."""
    apart = F.normalize(x[None] - x[:, None], dim=2)
    return apart @ apart.transpose(1, 2)


def _standard(x: Tensor) -> Tensor:
    """Rows scaled to mean 0 and standard deviation 1."""
    centred = x - x.mean(dim=1, keepdim=True)
    return centred / centred.square().mean(dim=1, keepdim=True).add(1e-12).sqrt()
