"""Contrastive losses: compare an image's embedding with those of many other images.

Embeddings are (N, D) of norm 1 in one space for teacher and student; ``others`` (K, D) are the teacher's of earlier
images. So they do not need the whole batch, but a memory of embeddings.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compressor.training.losses.float32 import wide


@wide
def crd(
    student: Tensor,
    teacher: Tensor,
    others: Tensor,
    *,
    samples: int,
    temperature: float = 0.07,
    form: str = "code",
) -> Tensor:
    """−log h(t, s) − Σ_k log(1 − h(o_k, s)), h = e^(⟨t, s⟩/τ) / (e^(⟨t, s⟩/τ) + K/samples).

    Tian et al. 2020, equations 18 and 19: the student learns to tell the teacher embedding of the same image from
    those of K others. ``samples``: number of training images. ``form="code"``, as released: e^(⟨t, s⟩/τ) is divided by
    ``samples`` times its mean over the others, a constant. With ``form="paper"`` each of the K terms is near 1 at
    first, and their sum is much larger than all other losses.
    """
    noise = torch.tensor(len(others) / samples, device=student.device, dtype=student.dtype).log()
    own = (student * teacher).sum(dim=1) / temperature
    wrong = student @ others.t() / temperature
    if form == "code":
        whole = wrong.detach().logsumexp(dim=1) - noise  # log of samples · mean
        own, wrong = own - whole, wrong - whole[:, None]
    # h = sigmoid(x − log K/M), so log h and log(1 − h) never overflow.
    return -(F.logsigmoid(own - noise) + F.logsigmoid(noise - wrong).sum(dim=1)).mean()


@wide
def rrd(
    student: Tensor,
    teacher: Tensor,
    others: Tensor,
    *,
    teacher_temperature: float = 0.1,
    student_temperature: float = 0.02,
) -> Tensor:
    """−Σ_k softmax(⟨t, o⟩/τ_t)_k · log softmax(⟨s, o⟩/τ_s)_k; Giakoumoglou and Stathaki 2024.

    The student learns the teacher's similarities to the stored images; those of this batch are among them.
    """
    target = (teacher @ others.t() / teacher_temperature).softmax(dim=1)
    log_probability = F.log_softmax(student @ others.t() / student_temperature, dim=1)
    return -(target * log_probability).sum(dim=1).mean()


@wide
def sskd(student: Tensor, teacher: Tensor, kept: Tensor | None = None, *, temperature: float = 0.5) -> Tensor:
    """KL of the rows softmax(cos(changed_i, plain_j)/τ), the teacher's against the student's.

    Xu et al. 2020, section 3.3. Embeddings (views, N, D): the first view is the plain images, the others are the same
    images changed. ``kept``: mask ((views − 1) · N,) of the rows that count, without those where the teacher errs most.
    """
    rows, targets = (
        F.log_softmax(compared_with_plain(views) / temperature, dim=1) for views in (student, teacher)
    )
    if kept is not None:
        rows, targets = rows[kept], targets[kept]
    return F.kl_div(rows, targets, reduction="sum", log_target=True) / max(1, len(rows))


def compared_with_plain(embeddings: Tensor) -> Tensor:
    """Cosines ((views − 1) · N, N) of the changed images with the plain ones."""
    unit = F.normalize(embeddings, dim=2)
    return unit[1:].flatten(0, 1) @ unit[0].t()
