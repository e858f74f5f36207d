"""Teachers that are made up, and several at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from compressor.training import Guide, Schedule, train
from compressor.training.label_teachers import VirtualTeacher
from compressor.training.lesson import loss_of_several
from compressor.training.losses import cross_entropy, kd, kd_each
from tests.compressor.test_training_loop import QUICK, state_of, toy_data, toy_network


def test_a_virtual_teacher_is_right_and_spreads_the_rest_evenly() -> None:
    teacher = VirtualTeacher(5, 0.9)
    shares = teacher(torch.tensor([2, 0])).softmax(1)
    torch.testing.assert_close(shares[0], torch.tensor([0.025, 0.025, 0.9, 0.025, 0.025]))
    assert shares[1].argmax() == 0


def test_a_virtual_teacher_knows_mixed_labels() -> None:
    mixed = torch.tensor([[0.6, 0.4, 0.0]])
    shares = VirtualTeacher(3, 0.8)(mixed).softmax(1)
    torch.testing.assert_close(shares, torch.tensor([[0.6 * 0.8 + 0.04, 0.06 + 0.4 * 0.8, 0.1]]))


def test_a_student_of_a_virtual_teacher_learns_without_a_network_being_asked() -> None:
    guide = Guide("virtual", VirtualTeacher(4, 0.99), by_labels=True)
    schedule = replace(QUICK, temperature=20.0, teacher_weight=0.1)
    trained = train(toy_network(), toy_data(fixed=False), schedule, guides=[guide])
    assert trained.accuracy > 0.9
    assert trained.history[0].teacher == "virtual"
    alone = train(toy_network(), toy_data(fixed=False), schedule)
    assert state_of(trained.network) != state_of(alone.network)


def test_of_several_teachers_the_farthest_stays_for_each_image_and_others_half_the_time() -> None:
    said = torch.zeros(4000, 3)
    near = torch.tensor([1.0, 0, 0]).expand(4000, 3)
    far = torch.tensor([4.0, 0, 0]).expand(4000, 3)
    labels = torch.zeros(4000, dtype=torch.int64)
    schedule = Schedule(teacher_weight=1.0, temperature=2.0)
    torch.manual_seed(0)
    found = loss_of_several(said, labels, [near, far], schedule).item()
    both = [kd(said, each, temperature=2.0).item() for each in (near, far)]
    assert both[0] < both[1]
    # Alone or in the mean with the nearer one, each half the time: 3/4 and 1/4, within three deviations.
    assert found == pytest.approx(0.75 * both[1] + 0.25 * both[0], rel=0.03)


def test_the_labels_have_the_rest_of_the_weight_beside_several_teachers() -> None:
    said, told = torch.randn(8, 3), torch.randn(8, 3)
    labels = torch.arange(8) % 3
    schedule = Schedule(teacher_weight=0.25, temperature=2.0)
    found = loss_of_several(said, labels, [told, told], schedule)
    expected = 0.25 * kd(said, told, temperature=2.0) + 0.75 * cross_entropy(said, labels)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(kd_each(said, told, temperature=2.0).mean(), kd(said, told, temperature=2.0))


def test_teachers_at_once_teach_from_beginning_to_end() -> None:
    guides = [Guide(name, toy_network(seed=seed)) for name, seed in (("one", 2), ("two", 3))]
    trained = train(toy_network(), toy_data(), QUICK, guides=guides, at_once=True)
    assert {epoch.teacher for epoch in trained.history} == {"one + two"}
    again = train(toy_network(), toy_data(), QUICK, guides=guides, at_once=True)
    assert state_of(trained.network) == state_of(again.network)
