"""The formulas, against numbers worked out by hand and against finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from compressor.distill.losses import LOSSES, cross_entropy, soft_targets
from compressor.errors import CompressError


def test_soft_targets_gives_the_value_worked_out_by_hand():
    # T = 2. Teacher ln(16), 0 -> ln 4, 0 -> 4/5, 1/5. Student 0, 0 -> 1/2, 1/2.
    teacher = torch.tensor([[math.log(16.0), 0.0]], dtype=torch.float64)
    student = torch.zeros(1, 2, dtype=torch.float64)
    by_hand = 2**2 * (0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5))
    assert soft_targets(student, teacher, temperature=2.0).item() == pytest.approx(by_hand)


def test_soft_targets_is_a_mean_over_the_batch():
    teacher, student = torch.randn(2, 4, 3, dtype=torch.float64)
    each = [soft_targets(student[i : i + 1], teacher[i : i + 1], temperature=3.0) for i in range(4)]
    whole = soft_targets(student, teacher, temperature=3.0)
    assert whole.item() == pytest.approx(sum(one.item() for one in each) / 4)


def test_soft_targets_weighs_by_the_teacher_and_not_by_the_student():
    sure, unsure = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    # KL(sure ‖ unsure) is at most ln 2; the other way round it grows with the logit.
    assert soft_targets(unsure, sure, temperature=1.0) < math.log(2)
    assert soft_targets(sure, unsure, temperature=1.0) > 3


def test_cross_entropy_gives_the_value_worked_out_by_hand():
    logits = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)  # 3/4, 1/4
    labels = torch.tensor([0])
    assert cross_entropy(logits, labels).item() == pytest.approx(-math.log(0.75))
    # Smoothing 0.2 leaves the label 0.8 + 0.2 / 2 and gives the other class 0.1.
    smooth = -0.9 * math.log(0.75) - 0.1 * math.log(0.25)
    assert cross_entropy(logits, labels, label_smoothing=0.2).item() == pytest.approx(smooth)


def test_the_gradients_agree_with_finite_differences():
    student = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0])
    assert torch.autograd.gradcheck(lambda s: soft_targets(s, teacher, temperature=4.0), student)
    assert torch.autograd.gradcheck(lambda s: cross_entropy(s, labels, label_smoothing=0.1), student)


@pytest.mark.parametrize(
    ("loss", "held_against", "constants"),
    [
        (cross_entropy, torch.randint(100, (64,)), {}),
        *((each, torch.randn(64, 100).bfloat16(), {"temperature": 4.0}) for each in LOSSES.values()),
    ],
)
def test_every_loss_is_computed_in_float32_inside_autocast(loss, held_against, constants):
    narrow = torch.randn(64, 100).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(narrow, held_against, **constants)
    assert found.dtype == torch.float32
    wide = held_against.double() if held_against.is_floating_point() else held_against
    truth = loss(narrow.double(), wide, **constants).item()
    # float32 rounds sums of 6400 terms to about 1e-6; bf16 would be off by 1e-2.
    assert found.item() == pytest.approx(truth, rel=1e-5)


def test_a_teacher_of_other_classes_is_refused():
    with pytest.raises(CompressError, match=r"\(2, 3\) logits, the teacher with \(2, 5\)"):
        soft_targets(torch.zeros(2, 3), torch.zeros(2, 5), temperature=1.0)
