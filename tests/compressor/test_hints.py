"""Hints compare what both networks have, and say what they cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from compressor.errors import UsageError
from compressor.training import train
from compressor.training.hints import Hints, hints_for

from .test_training_loop import QUICK, one_thread, state_of, toy_data, toy_network  # noqa: F401


def test_the_loss_is_the_mean_squared_difference_of_the_channels_that_both_have() -> None:
    mine = {"a": torch.tensor([[1.0, 2.0]]).view(1, 2, 1, 1)}
    theirs = {"a": torch.tensor([[5.0, 7.0, 4.0]]).view(1, 3, 1, 1)}
    hints = Hints(("a",), 0.5)
    # The student has channels 2 and 9 of the uncut network, the teacher 1, 2 and 4.
    found = hints.loss(mine, theirs, {"a": (2, 9)}, {"a": (1, 2, 4)})
    assert found.item() == 0.5 * (1 - 7) ** 2
    with pytest.raises(UsageError, match="outputs of `a` cannot be compared"):
        hints.loss(mine, theirs, {"a": (8, 9)}, {"a": (1, 2, 4)})


def test_a_layer_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="the student has no layer `layer9`") as caught:
        hints_for(("layer9",), 0.1, toy_network(), toy_network())
    assert caught.value.hint == "both have 0, 1, 3, 4, 8"
    with pytest.raises(UsageError, match="the teacher has no layer `0`") as caught:
        hints_for(("0",), 0.1, toy_network(), nn.ReLU())
    assert "no layer in common" in str(caught.value.hint)
    assert hints_for((), 0.1, toy_network(), toy_network()) is None


def test_a_student_with_hints_comes_closer_to_its_teachers_layers(tmp_path: Path) -> None:
    data, teacher, student = toy_data(), toy_network(7).eval(), toy_network()
    student[7] = nn.Identity()
    distance = {}
    for weight in (0.0, 10.0):
        hints = Hints(("3",), weight)
        trained = train(
            student, data, replace(QUICK, learning_rate=0.01), teacher=teacher, hints=hints
        ).network
        with hints.watching(trained) as mine, hints.watching(teacher) as theirs, torch.no_grad():
            trained(data.test.images)
            teacher(data.test.images)
        distance[weight] = (mine["3"] - theirs["3"]).square().mean().item()
    assert distance[10.0] < 0.5 * distance[0.0]


def test_hints_are_part_of_what_a_training_is(tmp_path: Path) -> None:
    given = (toy_network(), toy_data(), replace(QUICK, epochs=1))
    first = train(*given, teacher=toy_network(7), hints=Hints(("3",), 0.1), checkpoints=tmp_path)
    with pytest.raises(Exception, match="`hints` differs"):
        train(*given, teacher=toy_network(7), checkpoints=tmp_path)
    assert state_of(first.network)
