"""What a student is told about its answers: one formula a function; those of a teacher in `LOSSES`.

A loss takes logits (N, classes) and gives the mean over the batch. Each is computed in at
least float32, whatever autocast made of the logits: in bf16 the terms of a softmax over many
classes are lost to rounding. Weights between losses belong to the loop, not to a formula.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from compressor.errors import CompressError


def cross_entropy(student: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """−log softmax(student)[label]; smoothing spreads that share of the label over all classes."""
    return F.cross_entropy(_wide(student), labels, label_smoothing=label_smoothing)


def soft_targets(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """T² · KL(softmax(teacher/T) ‖ softmax(student/T)).

    Hinton, Vinyals, Dean 2015, section 2. The gradient of the divergence shrinks as 1/T²; the
    factor T² keeps its share next to the labels' loss the same when the temperature is changed.
    """
    if student.shape != teacher.shape:
        raise CompressError(
            f"the student answers with {tuple(student.shape)} logits, "
            f"the teacher with {tuple(teacher.shape)}",
            "a teacher and its student must tell the same classes apart",
        )
    told = F.log_softmax(_wide(teacher) / temperature, dim=1)
    said = F.log_softmax(_wide(student) / temperature, dim=1)
    return F.kl_div(said, told, reduction="batchmean", log_target=True) * temperature**2


TeacherLoss = Callable[..., Tensor]
"""(student's logits, teacher's logits, *, temperature) -> mean over the batch."""

LOSSES: dict[str, TeacherLoss] = {
    "soft-targets": soft_targets,
}
"""How a student may follow its teacher, by the name that a recipe gives (``teacher_loss``)."""


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
