"""The formulas, against published and hand-computed numbers and against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import signature

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compressor.errors import CompressError
from compressor.training.losses import (
    LOSSES,
    adversarial,
    attention,
    comparative,
    crd,
    cross_entropy,
    dist,
    dkd,
    drg,
    dsr,
    ega,
    fitnet,
    hsakd,
    kd,
    kd_plus,
    multi_head,
    ofa,
    pkt,
    rkd,
    rrd,
    similarity_preserving,
    sskd,
    tst,
)

TOLD = torch.tensor([[1.0, 0, 2], [0, 1, 1], [1, 1, 0], [2, 0, 1]], dtype=torch.float64)
SAID = torch.tensor([[1.0, 0], [0, 1], [1, 1], [2, 0.5]], dtype=torch.float64)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Numbers that bf16 holds exactly, so that only the arithmetic can differ."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16().double()


LABELS = torch.tensor([0, 1, 2, 3, 0])
STUDENT, TEACHER = drawn(5, 4), drawn(5, 4, seed=1)
MAPS, OTHER_MAPS = drawn(5, 3, 4, 4), drawn(5, 6, 2, 2, seed=1)
UNIT, OTHER_UNIT, MANY = (F.normalize(drawn(n, 6, seed=n), dim=1).bfloat16().double() for n in (5, 6, 9))

CASES: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "labels": (lambda s: cross_entropy(s, LABELS, label_smoothing=0.1), STUDENT),
    "kd": (lambda s: kd(s, TEACHER.to(s)), STUDENT),
    "dkd": (lambda s: dkd(s, TEACHER.to(s), LABELS), STUDENT),
    "dist": (lambda s: dist(s, TEACHER.to(s), temperature=2.0), STUDENT),
    "ofa": (lambda s: ofa(s, TEACHER.to(s), LABELS, gamma=1.5), STUDENT),
    "comparative": (lambda s: comparative(s, TEACHER.to(s)), STUDENT),
    "pkt": (lambda s: pkt(s, OTHER_MAPS.to(s)), MAPS),
    "similarity-preserving": (lambda s: similarity_preserving(s, OTHER_MAPS.to(s)), MAPS),
    "rkd": (lambda s: rkd(s, OTHER_MAPS.to(s)), MAPS),
    "attention": (lambda s: attention(s, OTHER_MAPS.to(s)), MAPS),
    "fitnet": (lambda s: fitnet(s, OTHER_MAPS[:, :3].to(s)), MAPS),
    "same-channels": (lambda s: fitnet(s, OTHER_MAPS[:, :3].to(s)), MAPS),
    "kd++": (lambda s: kd_plus(s, OTHER_MAPS[:, :3].to(s), LABELS, TEACHER[:4, :3].to(s)), MAPS),
    "ega": (lambda s: ega(s, TEACHER.to(s)), STUDENT),
    "crd": (
        lambda s: crd(s, OTHER_UNIT[:5].to(s), MANY.to(s), samples=100, temperature=0.5, form="paper"),
        UNIT,
    ),
    "rrd": (lambda s: rrd(s, OTHER_UNIT[:5].to(s), MANY.to(s), student_temperature=0.5), UNIT),
    "sskd": (lambda s: sskd(s, drawn(3, 5, 6, seed=2).to(s)), drawn(3, 5, 6)),
    "multi-head": (lambda s: multi_head(s, TEACHER.to(s)), STUDENT),
    "hsakd": (lambda s: hsakd(s, TEACHER.to(s)), STUDENT),
    "drg": (lambda s: drg(s, TEACHER.to(s)), STUDENT),
    "dsr": (lambda s: dsr(s, TEACHER.to(s)), STUDENT),
    "adversarial": (adversarial, STUDENT),
    "tst": (lambda s: tst(s, TEACHER.to(s)), STUDENT),
}


def test_every_loss_of_the_table_is_tested_here() -> None:
    assert set(CASES) == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_agrees_with_finite_differences(name: str) -> None:
    loss, student = CASES[name]
    assert torch.autograd.gradcheck(loss, student.clone().requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_computed_in_float32_inside_autocast(name: str) -> None:
    loss, student = CASES[name]
    narrow = student.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(narrow)
    assert found.dtype == torch.float32
    # float32 rounds to about 1e-6 of the terms; bf16 would be off by 1e-2.
    assert found.item() == pytest.approx(loss(narrow.double()).item(), rel=2e-5)


@pytest.mark.parametrize(
    "name", sorted(set(LOSSES) - {"labels", "kd++", "crd", "rrd", "ofa", "ega", "adversarial"})
)
def test_a_student_like_its_teacher_costs_nothing(name: str) -> None:
    function = LOSSES[name].function
    given = {"sskd": drawn(3, 5, 6), "attention": MAPS}.get(name, drawn(5, 4))
    more = (LABELS,) if "labels" in signature(function).parameters else ()
    assert function(given, given.clone(), *more).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", sorted(name for name in LOSSES if not LOSSES[name].whole_batch))
def test_a_loss_that_needs_no_whole_batch_is_the_mean_over_its_images(name: str) -> None:
    loss = {
        "labels": lambda i: cross_entropy(STUDENT[i], LABELS[i]),
        "kd": lambda i: kd(STUDENT[i], TEACHER[i]),
        "dkd": lambda i: dkd(STUDENT[i], TEACHER[i], LABELS[i]),
        "ofa": lambda i: ofa(STUDENT[i], TEACHER[i], LABELS[i]),
        "attention": lambda i: attention(MAPS[i], OTHER_MAPS[i]),
        "fitnet": lambda i: fitnet(MAPS[i], OTHER_MAPS[i, :3]),
        "same-channels": lambda i: fitnet(MAPS[i], OTHER_MAPS[i, :3]),
        "kd++": lambda i: kd_plus(MAPS[i], OTHER_MAPS[i, :3], LABELS[i], TEACHER[:4, :3]),
        "crd": lambda i: crd(UNIT[i], OTHER_UNIT[:5][i], MANY, samples=100),
        "rrd": lambda i: rrd(UNIT[i], OTHER_UNIT[:5][i], MANY),
        "multi-head": lambda i: multi_head(STUDENT[i], TEACHER[i]),
        "hsakd": lambda i: hsakd(STUDENT[i], TEACHER[i]),
        "adversarial": lambda i: adversarial(STUDENT[i]),
        "tst": lambda i: tst(STUDENT[i], TEACHER[i]),
        "drg": lambda i: drg(STUDENT[i], TEACHER[i]),
    }[name]
    parts = [loss(slice(number, number + 1)).item() for number in range(5)]
    assert loss(slice(0, 5)).item() == pytest.approx(sum(parts) / 5)


def test_kd_gives_the_value_worked_out_by_hand() -> None:
    # T = 2. Teacher ln(16), 0 -> ln 4, 0 -> 4/5, 1/5. Student 0, 0 -> 1/2, 1/2.
    teacher = torch.tensor([[math.log(16.0), 0.0]], dtype=torch.float64)
    student = torch.zeros(1, 2, dtype=torch.float64)
    by_hand = 2**2 * (0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5))
    assert kd(student, teacher, temperature=2.0).item() == pytest.approx(by_hand)


def test_kd_weighs_by_the_teacher_and_not_by_the_student() -> None:
    sure, unsure = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    # KL(sure ‖ unsure) is at most ln 2; the other way round it grows with the logit.
    assert kd(unsure, sure, temperature=1.0) < math.log(2)
    assert kd(sure, unsure, temperature=1.0) > 3


def test_cross_entropy_gives_the_value_worked_out_by_hand() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)  # 3/4, 1/4
    labels = torch.tensor([0])
    assert cross_entropy(logits, labels).item() == pytest.approx(-math.log(0.75))
    # Smoothing 0.2 leaves the label 0.8 + 0.2 / 2 and gives the other class 0.1.
    smooth = -0.9 * math.log(0.75) - 0.1 * math.log(0.25)
    assert cross_entropy(logits, labels, label_smoothing=0.2).item() == pytest.approx(smooth)


def test_decoupled_distillation_is_kd_where_its_second_part_has_the_weight_that_kd_hides() -> None:
    for number in range(5):
        one = slice(number, number + 1)
        hidden = 1 - (TEACHER[one] / 4).softmax(1)[0, LABELS[one]].item()
        same = dkd(STUDENT[one], TEACHER[one], LABELS[one], alpha=1.0, beta=hidden)
        assert same.item() == pytest.approx(kd(STUDENT[one], TEACHER[one]).item())


def test_decoupled_distillation_gives_the_value_worked_out_by_hand() -> None:
    # Teacher 1/2, 1/4, 1/4, student 1/4, 1/2, 1/4, label 0, T = 1.
    teacher = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    student = torch.tensor([[0.25, 0.5, 0.25]], dtype=torch.float64).log()
    target = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    others = 0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3))
    found = dkd(student, teacher, torch.tensor([0]), temperature=1.0, alpha=2.0, beta=3.0)
    assert found.item() == pytest.approx(2 * target + 3 * others)


def test_dist_sees_order_and_not_size() -> None:
    # Two classes: probabilities p, 1 − p correlate with ±1 within an image; across images like p itself.
    teacher = torch.tensor([[2.0, 0], [0, 1], [3, 0]], dtype=torch.float64)
    assert dist(3 * teacher, teacher, inter=1.0, intra=0.0).item() == pytest.approx(0)
    assert dist(-teacher, teacher, inter=1.0, intra=0.0).item() == pytest.approx(2)
    p, q = teacher.softmax(1)[:, 0], (3 * teacher).softmax(1)[:, 0]
    correlation = torch.corrcoef(torch.stack([p, q]))[0, 1].item()
    assert dist(3 * teacher, teacher, inter=0.0, intra=1.0).item() == pytest.approx(1 - correlation)


def test_ofa_gives_the_values_computed_from_its_paper() -> None:
    teacher = torch.tensor([[2.0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    student = torch.tensor([[1.0, 1, 0], [0.5, 0, 1]], dtype=torch.float64)
    labels = torch.tensor([0, 2])
    assert ofa(student, teacher, labels, gamma=1.0).item() == pytest.approx(0.97510369, abs=1e-8)
    assert ofa(student, teacher, labels, gamma=1.5).item() == pytest.approx(1.04494915, abs=1e-8)


def test_the_comparative_loss_is_the_mean_over_pairs() -> None:
    pairs = [
        (STUDENT[i] - STUDENT[j] - TEACHER[i] + TEACHER[j]).square().sum().item()
        for i in range(5)
        for j in range(5)
        if i != j
    ]
    assert comparative(STUDENT, TEACHER).item() == pytest.approx(sum(pairs) / 20)
    assert comparative(STUDENT + 3, TEACHER).item() == pytest.approx(sum(pairs) / 20)


def test_pkt_gives_the_values_computed_from_its_papers_and_from_its_code() -> None:
    assert pkt(SAID, TOLD).item() == pytest.approx(0.05461328, abs=2e-7)
    assert pkt(SAID, TOLD, form="code").item() == pytest.approx(0.01254955, abs=2e-7)
    assert pkt(SAID, TOLD, form="plain").item() == pytest.approx(0.00406291, abs=2e-7)


def test_similarity_preserving_gives_the_value_computed_from_its_paper() -> None:
    assert similarity_preserving(SAID, TOLD).item() == pytest.approx(0.05836081, abs=1e-8)


def test_relational_distillation_gives_the_value_worked_out_by_hand() -> None:
    # A right triangle with sides 3, 4, 5 against an equilateral one: distances over their means, cosines of angles.
    right = torch.tensor([[0.0, 0], [3, 0], [0, 4]], dtype=torch.float64)
    even = torch.tensor([[0.0, 0], [1, 0], [0.5, math.sqrt(0.75)]], dtype=torch.float64)
    by_distance = 2 * sum(0.5 * (side / 4 - 1) ** 2 for side in (3, 4, 5)) / 9
    assert rkd(right, even, distances=1.0, angles=0.0).item() == pytest.approx(by_distance)
    # At each corner: with itself 1 in both (two of them), with the other cos; the corner itself gives 0.
    by_angle = 2 * sum(0.5 * (cos - 0.5) ** 2 for cos in (0.0, 0.6, 0.8)) / 27
    assert rkd(right, even, distances=0.0, angles=1.0).item() == pytest.approx(by_angle)


def test_attention_gives_the_values_worked_out_by_hand() -> None:
    # Maps of two pixels, two channels: squares add up to (3, 4) and (1, 0).
    mine = torch.tensor([[[[1.0, 2.0]], [[math.sqrt(2), 0.0]]]], dtype=torch.float64)
    theirs = torch.tensor([[[[1.0, 0.0]]]], dtype=torch.float64)
    apart = [(0.6 - 1) ** 2, 0.8**2]
    assert attention(mine, theirs).item() == pytest.approx(math.sqrt(sum(apart)) / 2 / 2)
    assert attention(mine, theirs, form="code").item() == pytest.approx(sum(apart) / 2)


def test_the_larger_of_two_maps_is_averaged_down() -> None:
    small = F.adaptive_avg_pool2d(MAPS, 2)
    assert fitnet(MAPS, small).item() == pytest.approx(0)
    assert fitnet(small, MAPS).item() == pytest.approx(0)


def test_kd_plus_asks_for_the_direction_of_the_class_and_for_the_norm_of_the_teacher() -> None:
    centres = torch.tensor([[2.0, 0.0], [0.0, 5.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1])
    teacher = torch.tensor([[4.0, 3.0], [0.0, 1.0]], dtype=torch.float64)  # norms 5 and 1
    student = torch.tensor([[3.0, 0.0], [3.0, 4.0]], dtype=torch.float64)  # norms 3 and 5
    # First: right direction, 3 of 5. Second: 4 of max(5, 1).
    assert kd_plus(student, teacher, labels, centres).item() == pytest.approx(((1 - 0.6) + (1 - 0.8)) / 2)


def test_ega_gives_the_value_worked_out_by_hand() -> None:
    # Standardised rows are ±1, so correlations are means of products.
    teacher = torch.tensor([[1.0, 3, 1, 3], [5, 5, 7, 7]], dtype=torch.float64)
    student = torch.tensor([[0.0, 2, 0, 2], [2, 0, 2, 0]], dtype=torch.float64)
    # C_TS = [[1, -1], [0, 0]], C_TT = I, C_SS = [[1, -1], [-1, 1]].
    nodes, between = math.sqrt(0 + 1 + 0 + 1), math.sqrt(2)
    assert ega(student, teacher).item() == pytest.approx(nodes + 0.3 * between)


def test_contrast_with_others_gives_the_values_worked_out_by_hand() -> None:
    student = teacher = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    others = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    # τ = 1, K/M = 2/4: h = e / (e + 1/2); of the others 1 / (1 + 1/2) and e / (e + 1/2).
    h, e = math.e / (math.e + 0.5), 1 / 1.5
    by_hand = -math.log(h) - math.log(1 - e) - math.log(1 - h)
    assert crd(student, teacher, others, samples=4, temperature=1.0, form="paper").item() == pytest.approx(
        by_hand
    )
    # Divided by samples · mean = 4 · (1 + e) / 2, h is e / (1 + 2 e); of the others 1 / (2 + e) and that again.
    h, e = math.e / (1 + 2 * math.e), 1 / (2 + math.e)
    as_released = -math.log(h) - math.log(1 - e) - math.log(1 - h)
    assert crd(student, teacher, others, samples=4, temperature=1.0).item() == pytest.approx(as_released)
    p, q = 1 / (1 + math.e), 1 / (1 + math.e**2)
    entropy = -(p * math.log(q) + (1 - p) * math.log(1 - q))
    found = rrd(student, teacher, others, teacher_temperature=1.0, student_temperature=0.5)
    assert found.item() == pytest.approx(entropy)


def test_similarities_of_changed_images_give_the_value_worked_out_by_hand() -> None:
    plain = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    same, swapped = torch.stack([plain, plain]), torch.stack([plain, plain.flip(0)])
    # τ = 0.5: rows softmax(2, 0) against softmax(0, 2), each KL = 2 · (p − (1 − p)).
    p = 1 / (1 + math.exp(-2))
    assert sskd(swapped, same).item() == pytest.approx(2 * (2 * p - 1))


@pytest.mark.parametrize("loss", [kd, dist, comparative])
def test_a_teacher_of_other_classes_is_refused(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(CompressError, match=r"logits have shape \(2, 3\), the teacher's \(2, 5\)"):
        loss(torch.zeros(2, 3), torch.zeros(2, 5))
