"""Pictures of numbers, and the teacher that answers with what was said of them."""

from __future__ import annotations

import pytest
import torch

from compressor.data import load_data
from compressor.data.in_memory import TensorSplit
from compressor.data.number_pictures import load_numbers
from compressor.data.split import Data
from compressor.errors import UsageError
from compressor.methods.lightweight_teacher import IMAGES, SCHEDULE, lenet
from compressor.recipe import DataRecipe
from compressor.training import train
from compressor.training.label_teachers import Drawn


def bright(count: int) -> TensorSplit:
    """Digit d is a picture as bright as d says."""
    from compressor.data.scaling import Scaling

    labels = torch.arange(count) % 10
    images = (labels * 25).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    return TensorSplit(images, labels, Scaling((0.0,), (1.0,)))


BRIGHT = Data("bright", tuple("0123456789"), (1, 8, 8), bright(40), bright(20))


@pytest.mark.parametrize(("classes", "places"), [(10, 1), (36, 2), (101, 3)])
def test_a_class_shows_its_number_with_all_digits_side_by_side(classes: int, places: int) -> None:
    data = load_numbers(classes, train=2 * classes, test=classes, digits=BRIGHT)
    assert data.classes[-1] == str(classes - 1)
    assert {len(name) for name in data.classes} == {places}
    batch = next(data.train.batches(2 * classes))
    assert batch.images.shape == (2 * classes, 3, 32, 32)
    scale, low = 4.0, -2.0  # of pixels from 0 to 1, with a mean of 0.5 and a deviation of 0.25
    for image, label in zip(batch.images, batch.labels, strict=True):
        seen = [(part.mean() - low) / scale * 9 for part in image[0].tensor_split(places, dim=1)]
        for brightness, digit in zip(seen, data.classes[int(label)], strict=True):
            assert brightness == pytest.approx(int(digit), abs=0.6)  # smoothed where two digits touch


def test_numbers_repeat_by_their_seed() -> None:
    one, same, other = (load_numbers(12, train=24, test=12, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.train.images, same.train.images)
    assert not torch.equal(one.train.images, other.train.images)


def test_a_set_that_is_not_ten_digits_is_refused() -> None:
    with pytest.raises(UsageError, match="data set `glyphs` has 36 classes, expected the 10 digits"):
        load_numbers(10, train=10, test=10, digits=load_data(DataRecipe()))


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
