from __future__ import annotations

import numpy as np
import pytest

from compressor.errors import ExportError
from compressor.exporting.test_inputs import hard_batches, in_parts, real_batches

IMAGES = np.random.default_rng(0).normal(size=(5, 1, 2, 2)).astype(np.float32)


def test_real_images_come_alone_in_threes_and_all_at_once() -> None:
    assert [len(batch) for batch in real_batches(IMAGES)] == [1, 1, 1, 1, 3, 5]


def test_one_image_is_repeated_for_the_larger_batch() -> None:
    assert [len(batch) for batch in real_batches(IMAGES[:1])] == [1, 3, 1]


def test_noise_and_the_ends_of_the_range_keep_the_type() -> None:
    noise, ends = hard_batches(IMAGES)
    assert (noise.shape, noise.dtype) == ((3, 1, 2, 2), np.float32)
    assert ends[:, 0, 0, 0].tolist() == [IMAGES.min(), IMAGES.max(), 0]


@pytest.mark.parametrize("images", [IMAGES[:0], np.full((1, 1), np.nan)], ids=["none", "nan"])
@pytest.mark.parametrize("batches", [real_batches, hard_batches])
def test_no_images_and_broken_ones_are_refused(images: np.ndarray, batches: object) -> None:
    with pytest.raises(ExportError):
        list(batches(images))  # type: ignore[operator]


def test_parts_have_the_size_that_a_file_insists_on_and_end_in_repeated_images() -> None:
    parts = list(in_parts(IMAGES, 3, 3))
    assert [(len(part), own) for part, own in parts] == [(3, 3), (3, 2)]
    np.testing.assert_array_equal(np.concatenate([part[:own] for part, own in parts]), IMAGES)
    np.testing.assert_array_equal(parts[1][0][2], IMAGES[3])
