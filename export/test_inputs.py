"""Inputs for the proof of an artifact: real images, noise like them, and the ends of their range.

Batches are one image, an odd number and all images, because a runtime chooses other kernels for each size.
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
    """Yield the first four images one by one, then three at once, then all."""
    _refuse_empty(images)
    yield from (images[index : index + 1] for index in range(min(len(images), 4)))
    yield _repeated(images, ODD)
    yield images


def hard_batches(images: Array, seed: int = 0) -> Iterator[Array]:
    """Yield noise with the images' mean and spread; then the darkest, the brightest and the zero image."""
    import numpy as np

    _refuse_empty(images)
    noise = np.random.default_rng(seed).normal(images.mean(), images.std() or 1.0, (ODD, *images.shape[1:]))
    yield noise.astype(images.dtype)
    ends = [np.full(images.shape[1:], value, images.dtype) for value in (images.min(), images.max(), 0)]
    yield np.stack(ends)


def in_parts(images: Array, fewest: int, most: int | None) -> Iterator[tuple[Array, int]]:
    """Yield batches that a file takes, padded by repeated images, each with the number of its images before padding."""
    size = most or max(len(images), 1)
    for start in range(0, len(images), size):
        part = images[start : start + size]
        yield _repeated(part, max(fewest, len(part))), len(part)


def _repeated(images: Array, size: int) -> Array:
    """The images, repeated until there are ``size``."""
    import numpy as np

    return np.concatenate([images] * -(-size // len(images)))[:size]


def _refuse_empty(images: Array) -> None:
    import numpy as np

    if not len(images):
        raise ExportError("there are no images to prove an artifact on")
    bad = int(images.size - np.isfinite(images).sum())
    if bad:
        raise ExportError(f"{bad} of {images.size} values of the images are NaN or infinite")
