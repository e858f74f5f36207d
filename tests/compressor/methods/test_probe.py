"""A teacher that ruins its students is found out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor, nn

from compressor.data.split import Data
from compressor.errors import UsageError
from compressor.methods.probe_teacher import probed, verdict
from compressor.recipe.distilling import Distilling
from compressor.training import Guide

from .stripes import SCHEDULE, task_for

ASKED = Distilling("kd", probe=2, schedule=replace(SCHEDULE, teacher_weight=1.0))


class Liar(nn.Module):
    """Answers with the other class."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, images: Tensor) -> Tensor:
        return self.teacher(images).flip(1) * 20


@pytest.fixture
def trained(teacher: nn.Module, data: Data) -> nn.Module:
    from compressor.training import train

    return train(teacher, data, SCHEDULE).network


def test_a_teacher_that_lies_is_named(trained: nn.Module, data: Data, tmp_path: Path) -> None:
    task = replace(task_for(trained, data, tmp_path, ASKED), guide=Guide("liar", Liar(trained)))
    warning = probed(task)
    assert warning is not None
    assert "`liar` teaches worse than none: after 2 epochs the student is right on" in warning


def test_of_a_fair_teacher_nothing_is_said(trained: nn.Module, data: Data, tmp_path: Path) -> None:
    assert probed(task_for(trained, data, tmp_path, ASKED)) is None


@pytest.mark.parametrize(
    ("with_it", "without", "tested", "warned"),
    [
        (0.80, 0.90, 1000, True),
        (0.80, 0.82, 1000, False),
        (0.80, 0.82, 100_000, True),
        (0.9, 0.8, 100, False),
    ],
)
def test_a_difference_counts_when_it_is_larger_than_chance(
    with_it: float, without: float, tested: int, warned: bool
) -> None:
    assert (verdict(with_it, without, tested, 3, "big") is not None) == warned


def test_a_probe_of_no_teacher_is_refused() -> None:
    with pytest.raises(UsageError, match="and method `finetune` has none"):
        Distilling("finetune", probe=2)
    assert list(Distilling("kd", probe=2).trainings(["student"])) == [
        "probe-taught",
        "probe-alone",
        "student",
    ]
