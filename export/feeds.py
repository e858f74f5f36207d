"""What an artifact is asked to prove itself: real images, noise like them, and the ends of their range.

In batches of one, of an odd number and of as many as there are, because a runtime chooses other kernels for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .errors import ExportError

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
    _refuse_empty(images)
    noise = np.random.default_rng(seed).normal(images.mean(), images.std() or 1.0, (ODD, *images.shape[1:]))
    yield noise.astype(images.dtype)
    ends = [np.full(images.shape[1:], value, images.dtype) for value in (images.min(), images.max(), 0)]
    yield np.stack(ends)


def _enough(images: Array, size: int) -> Array:
    return np.concatenate([images] * -(-size // len(images)))[:size]


def _refuse_empty(images: Array) -> None:
    if not len(images):
        raise ExportError("there are no images to prove an artifact on")
    bad = int(images.size - np.isfinite(images).sum())
    if bad:
        raise ExportError(f"{bad} of {images.size} values of the images are NaN or infinite")
