"""Each criterion against a case worked out by hand, and against a plain reference in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.pruning.scoring import criteria
from compressor.pruning.scoring.combine import NORMALISATIONS
from compressor.pruning.scoring.criteria import (
    BATCH_NORM_SCALE,
    CRITERIA,
    MEASURES,
    OTHER,
    SCALE,
    WEIGHT,
    MeasuredSlot,
)

VALUE = torch.tensor([[1.0, -2.0, 3.0], [-4.0, 0.0, 0.5]], dtype=torch.float64)
GRADIENT = torch.tensor([[0.5, 1.0, 1.0], [1.0, 7.0, 2.0]], dtype=torch.float64)


def seen(
    value: Tensor = VALUE, axis: int = 0, kind: str = WEIGHT, produces: bool = True, **measured: Tensor
) -> MeasuredSlot:
    sums = {
        "abs_w": value.abs(),
        "w2": value.square(),
        **({"wg": value * GRADIENT} if value.shape == GRADIENT.shape else {}),
    }
    others = [dim for dim in range(value.dim()) if dim != axis]
    taken = {name: each.sum(others) if others else each for name, each in sums.items()}
    return MeasuredSlot("weight", axis, kind, produces, value, {**taken, **measured})


@pytest.mark.parametrize(
    ("name", "axis", "expected"),
    [
        ("l1", 0, [6.0, 4.5]),
        ("l1", 1, [5.0, 2.0, 3.5]),
        ("l2", 0, [14.0, 16.25]),
        ("l2", 1, [17.0, 4.0, 9.25]),
        # Rows: 0.5 - 2 + 3 = 1.5 and -4 + 0 + 1 = -3; columns: -3.5, -2 and 4.
        ("taylor", 0, [1.5, 3.0]),
        ("taylor", 1, [3.5, 2.0, 4.0]),
        # Of 14 + 16.25 the larger row has its share; the smaller has its share of both.
        ("lamp", 0, [14 / 30.25, 1.0]),
        ("lamp", 1, [1.0, 4 / 30.25, 9.25 / 26.25]),
        # |(1, -2, 3) - (-4, 0, 0.5)| = sqrt(25 + 4 + 6.25)
        ("fpgm", 0, [math.sqrt(35.25)] * 2),
    ],
)
def test_worked_out_by_hand(name: str, axis: int, expected: list[float]) -> None:
    found = CRITERIA[name].formula(seen(axis=axis))
    assert found is not None
    assert found.tolist() == pytest.approx(expected, rel=1e-15)


def test_the_distance_to_all_other_filters_is_that_of_a_double_loop() -> None:
    rows = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[3] = rows[1]  # twins are at no distance
    expected = [sum(float((a - b).norm()) for b in rows) for a in rows]
    assert criteria.fpgm(seen(rows)).tolist() == pytest.approx(expected, rel=1e-14)
    assert criteria.fpgm(seen(rows[[1, 3]])).tolist() == [0.0, 0.0]
    assert criteria.fpgm(seen(rows, produces=False)) is None


def test_the_share_of_what_remains_is_that_of_a_double_loop_and_ties_are_alike() -> None:
    energy = torch.tensor([4.0, 1.0, 0.0, 4.0, 2.0, 1.0], dtype=torch.float64)
    expected = [float(each / energy[energy >= each].sum()) for each in energy]
    assert criteria.lamp(seen(w2=energy)).tolist() == pytest.approx(expected, rel=1e-15)
    assert criteria.lamp(seen(w2=torch.zeros(3, dtype=torch.float64))).tolist() == [0.0] * 3


def test_magnitude_has_a_say_on_scales_of_norms_and_none_on_shifts() -> None:
    for name in ("l1", "l2"):
        formula = CRITERIA[name].formula
        assert formula(seen(VALUE[0], kind=SCALE)) is not None
        assert formula(seen(VALUE[0], kind=BATCH_NORM_SCALE)) is not None
        assert formula(seen(VALUE[0], kind=OTHER)) is None


def test_the_scale_of_a_batch_norm_counts_by_its_size_and_nothing_else_does() -> None:
    assert criteria.bn_scale(seen(VALUE[0], kind=BATCH_NORM_SCALE)).tolist() == [1.0, 2.0, 3.0]
    assert criteria.bn_scale(seen(VALUE[0], kind=SCALE)) is None
    assert criteria.bn_scale(seen()) is None


def test_what_a_layer_gives_out_is_judged_where_it_is_made() -> None:
    gates = {"gate": torch.tensor([1.0, -2.0]), "gate2": torch.tensor([1.0, 6.0])}
    assert criteria.gate(seen(**gates)).tolist() == [-1.0, 2.0]
    assert criteria.fisher(seen(**gates)).tolist() == [0.5, 3.0]
    assert criteria.hrank(seen(rank=torch.tensor([3.0, 4.0]))).tolist() == [3.0, 4.0]
    for formula in (criteria.gate, criteria.fisher, criteria.hrank, criteria.random):
        assert formula(seen(produces=False, **gates)) is None


def test_by_lot_is_repeatable_and_another_seed_gives_other_scores() -> None:
    def lot(seed: int, tensor: str = "weight") -> list[float]:
        return criteria.random(MeasuredSlot(tensor, 0, WEIGHT, True, torch.zeros(9, 2), {}, seed)).tolist()

    assert lot(1) == lot(1)
    assert lot(1) != lot(2)
    assert lot(1) != lot(1, "another")
    assert all(0 <= each < 1 for each in lot(2**32 - 1))


def test_the_table_is_whole() -> None:
    names = "l1 l2 bn-scale taylor gate gate-cascade fisher fpgm lamp hrank random"
    assert list(CRITERIA) == names.split()
    reading = [name for name, each in CRITERIA.items() if each.reads_data]
    assert reading == ["taylor", "gate", "gate-cascade", "fisher", "hrank"]
    for each in CRITERIA.values():
        assert set(each.measures) <= MEASURES.keys()
        assert each.normalise in NORMALISATIONS


def small() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5)]
    return nn.Sequential(*layers).double().eval()


def test_the_rank_is_that_of_what_the_next_layer_sees() -> None:
    from tests.compressor.test_score import by_criterion

    network = small()
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    maps = network[2](network[1](network[0](images))).detach().float().numpy()
    expected = np.linalg.matrix_rank(maps).mean(axis=0)
    assert by_criterion(network, "hrank", images, normalise="none") == pytest.approx(expected.tolist())
    assert expected.min() < 6  # the activation has taken something away


def test_the_gate_of_each_image_is_its_own_derivative() -> None:
    from tests.compressor.test_score import by_criterion

    network = small()
    conv, norm, head = network[0], network[1], network[4]
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    derivatives = []
    for image, label in zip(images, range(4), strict=True):
        mask = torch.ones(6, 1, 1, dtype=torch.float64, requires_grad=True)
        x = norm(conv(image[None]) * mask).relu().flatten(1)
        loss = F.cross_entropy(head(x), torch.tensor([label]))
        derivatives.append(torch.autograd.grad(loss, mask)[0].flatten())
    each = torch.stack(derivatives)
    gate, fisher = -each.mean(0), each.square().mean(0) / 2
    assert by_criterion(network, "gate", images, normalise="none") == pytest.approx(gate.tolist(), rel=1e-9)
    found = by_criterion(network, "fisher", images, normalise="none")
    assert found == pytest.approx(fisher.tolist(), rel=1e-9)
