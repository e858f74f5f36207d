"""What an artifact is asked to prove itself: real images, noise like them, and the ends of their range.

In batches of one, of an odd number and of as many as there are, because a runtime chooses other kernels for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from compressor.errors import ExportError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

ODD = 3


def real_batches(images: Array) -> Iterator[Array]:
    """The images one by one, in threes, and all at once."""
    _refuse_empty(images)
    yield from (images[index : index + 1] for index in range(min(len(images), 4)))
    yield _enough(images, ODD)
    yield images


def hard_batches(images: Array, seed: int = 0) -> Iterator[Array]:
    """Noise with the images' mean and spread; the darkest, the brightest and the zero image."""
    import numpy as np

    _refuse_empty(images)
    noise = np.random.default_rng(seed).normal(images.mean(), images.std() or 1.0, (ODD, *images.shape[1:]))
    yield noise.astype(images.dtype)
    ends = [np.full(images.shape[1:], value, images.dtype) for value in (images.min(), images.max(), 0)]
    yield np.stack(ends)


def in_parts(images: Array, fewest: int, most: int | None) -> Iterator[tuple[Array, int]]:
    """Batches that a file takes, the last one filled up; with each, how many of its images are not there twice."""
    size = most or max(len(images), 1)
    for start in range(0, len(images), size):
        part = images[start : start + size]
        yield _enough(part, max(fewest, len(part))), len(part)


def _enough(images: Array, size: int) -> Array:
    import numpy as np

    return np.concatenate([images] * -(-size // len(images)))[:size]


def _refuse_empty(images: Array) -> None:
    import numpy as np

    if not len(images):
        raise ExportError("there are no images to prove an artifact on")
    bad = int(images.size - np.isfinite(images).sum())
    if bad:
        raise ExportError(f"{bad} of {images.size} values of the images are NaN or infinite")
