"""The built-in data set: the same pixels each time, and a test half that nobody has trained on."""

import time

import pytest
import torch

from compressor.data import load_data
from compressor.data.glyphs import CLASSES, GLYPHS, SIZE, load_glyphs
from compressor.data.in_memory import TensorSplit
from compressor.errors import UsageError
from compressor.recipe import DataRecipe


def _pixels(split: object) -> torch.Tensor:
    assert isinstance(split, TensorSplit)
    return split.images


def test_the_same_seed_renders_the_same_pixels() -> None:
    first, again = (load_glyphs(train=300, test=300, seed=7) for _ in range(2))
    assert torch.equal(_pixels(first.train), _pixels(again.train))
    assert torch.equal(_pixels(first.test), _pixels(again.test))


def test_another_seed_renders_other_pixels() -> None:
    first, other = (load_glyphs(train=50, test=50, seed=seed) for seed in (0, 1))
    assert not torch.equal(_pixels(first.train), _pixels(other.train))
    assert not torch.equal(_pixels(first.train), _pixels(other.test))


def test_rendering_leaves_the_global_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    load_glyphs(train=10, test=10)
    assert torch.equal(before, torch.get_rng_state())


def test_no_image_is_in_both_halves_or_twice_in_one() -> None:
    data = load_glyphs()
    images = torch.cat([_pixels(data.train), _pixels(data.test)])
    assert len({image.numpy().tobytes() for image in images}) == len(images)


def test_every_class_is_equally_frequent() -> None:
    data = load_glyphs(train=20 * CLASSES, test=CLASSES)
    labels = torch.cat([batch.labels for batch in data.train.batches(100)])
    assert torch.equal(labels.bincount(), torch.full((CLASSES,), 20))
    assert data.classes == tuple(GLYPHS[:CLASSES])


def test_all_62_glyphs_can_be_asked_for_and_no_more() -> None:
    assert len(set(GLYPHS)) == 62
    assert set(GLYPHS) == {chr(code) for code in range(128) if chr(code).isalnum()}
    assert len(load_glyphs(classes=62, train=62, test=62).classes) == 62
    with pytest.raises(UsageError, match="63 classes"):
        load_glyphs(classes=63)


def test_a_glyph_can_be_seen_on_its_background() -> None:
    """The pixels differ from a blank sheet's: each sample has a spread of brightness."""
    pixels = _pixels(load_glyphs(train=2000, test=1).train).float().mean(dim=1).flatten(1)
    span = pixels.quantile(0.98, dim=1) - pixels.quantile(0.02, dim=1)
    assert span.min() > 20


def test_glyphs_of_one_class_differ_less_from_their_mean_shape_than_from_another() -> None:
    """Labels and pictures belong together: a nearest mean of edges beats chance ten times over."""
    data = load_glyphs(classes=10, train=2000, test=500)

    def edges(split: object) -> torch.Tensor:
        grey = _pixels(split).float().mean(dim=1)
        return (grey - grey.flatten(1).median(dim=1).values.view(-1, 1, 1)).abs().flatten(1)

    train, test = edges(data.train), edges(data.test)
    train, test = (torch.nn.functional.normalize(half) for half in (train, test))
    means = torch.stack([train[label::10].mean(dim=0) for label in range(10)])
    right = ((test @ torch.nn.functional.normalize(means).T).argmax(dim=1) == torch.arange(500) % 10).float()
    assert right.mean() > 0.4


@pytest.mark.parametrize("size", [16, 24, 33])
def test_images_have_the_size_that_was_asked_for(size: int) -> None:
    data = load_glyphs(train=8, test=4, size=size)
    batch = next(data.train.batches(8))
    assert batch.images.shape == (8, 3, size, size)
    assert data.shape == (3, size, size)


def test_values_are_scaled_to_about_minus_two_to_two() -> None:
    batch = next(load_glyphs(train=500, test=1).train.batches(500))
    assert batch.images.dtype == torch.float32
    assert -2 <= batch.images.min() < -1.5
    assert 1.5 < batch.images.max() <= 2


@pytest.mark.parametrize(
    "wrong",
    [{"size": 4}, {"classes": 1}, {"train": 0}, {"test": 0}, {"normalise": ((0.5,) * 3, (0.1, 0.0, 1))}],
)
def test_a_request_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        load_glyphs(**wrong)  # type: ignore[arg-type]


def test_the_default_set_is_rendered_in_a_moment() -> None:
    start = time.process_time()
    data = load_data(DataRecipe(), 0)
    # About 1.1 s of one core; the limit allows for a busy and slower machine.
    assert time.process_time() - start < 10
    assert data.shape == (3, SIZE, SIZE)
    assert len(data.test) >= 2000
    assert data.train.fixed
