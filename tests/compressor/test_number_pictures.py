"""Pictures of numbers, and the teacher that answers with what was said of them."""

from __future__ import annotations

import pytest
import torch

from compressor.data.number_pictures import load_numbers
from compressor.methods.lightweight_teacher import IMAGES, SCHEDULE, lenet
from compressor.training import train
from compressor.training.label_teachers import Drawn


@pytest.mark.parametrize(("classes", "places"), [(10, 1), (36, 2), (101, 3)])
def test_a_class_is_a_number_with_all_its_digits(classes: int, places: int) -> None:
    data = load_numbers(classes, train=2 * classes, test=classes)
    assert data.classes[-1] == str(classes - 1)
    assert {len(name) for name in data.classes} == {places}
    batch = next(data.train.batches(2 * classes))
    assert batch.images.shape == (2 * classes, 3, 32, 32)


def test_numbers_repeat_by_their_seed() -> None:
    one, same, other = (load_numbers(12, train=24, test=12, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.train.images, same.train.images)
    assert not torch.equal(one.train.images, other.train.images)


def test_a_lightweight_teacher_soon_knows_nearly_all_numbers() -> None:
    assert sum(p.numel() for p in lenet(10).parameters()) < 65_000
    data = load_numbers(10, train=IMAGES * 10, test=IMAGES * 5)
    assert train(lenet(10), data, SCHEDULE).accuracy > 0.99


def test_what_is_drawn_is_an_answer_to_an_image_of_the_same_class() -> None:
    pools = torch.arange(3 * 5 * 3, dtype=torch.float32).view(3, 5, 3)
    teacher = Drawn(pools)
    torch.manual_seed(0)
    told = teacher(torch.tensor([2] * 200 + [0]))
    assert {tuple(row) for row in told[:200].tolist()} == {tuple(row) for row in pools[2].tolist()}
    assert told[200].tolist() in pools[0].tolist()


def test_for_mixed_labels_answers_are_mixed_in_the_same_shares() -> None:
    pools = torch.randn(3, 1, 3)  # a single image of each class, so that nothing is left to chance
    told = Drawn(pools)(torch.tensor([[0.25, 0.0, 0.75]])).softmax(1)
    torch.testing.assert_close(told[0], 0.25 * pools[0, 0].softmax(0) + 0.75 * pools[2, 0].softmax(0))
