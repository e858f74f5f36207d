"""Samples from an iterable of the user's own code, which can only be read in order from the beginning.

Every pass starts the iterable again. If a half has ``set_epoch(number)``, it is called first with the
shuffle number (0 without shuffling), and the half may choose its order by it; nothing here mixes the
samples. The batches before ``start`` and the pieces of other processes are read and dropped: for a
slow stream use shards or a map-style data set instead. A sample's number is its position in the pass.
Not supported: endless streams, which have no number of batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from compressor.data.samples import Expected, seed_for
from compressor.data.split import WHOLE, Bad, Batch, Part, batch_indices
from compressor.errors import CompressError

_END = object()
_HINT = "set len() of the half, or its attribute `samples`, to the number of samples in one pass"


def is_stream(half: Any) -> bool:
    """True for an iterable without an index that can be started again."""
    # torch's IterableDataset inherits an index method, which fails when it is used.
    indexed = hasattr(half, "__getitem__") and not isinstance(half, IterableDataset)
    return hasattr(half, "__iter__") and not indexed and not isinstance(half, Iterator)


def first_of(half: Any, where: str, length: int) -> Any:
    """The first sample, whose image defines the shape of all."""
    with torch.random.fork_rng(devices=[]):
        return _Pass(half, where, length, 0).next()


@dataclass(frozen=True)
class StreamSplit:
    """Split over the user's iterable; one pass has ``length`` samples."""

    samples: Any
    length: int
    expected: Expected

    fixed: ClassVar = False  # a stream may augment, and may change its order
    labelled: ClassVar = True
    bad: ClassVar[tuple[Bad, ...]] = ()  # a sample that the user's code cannot read is an error

    @property
    def plain(self) -> StreamSplit:
        """The split itself: augmentation in the user's code cannot be switched off from outside."""
        return self

    def __len__(self) -> int:
        return self.length

    def batches(
        self, size: int, *, shuffle: int | None = None, start: int = 0, part: Part = WHOLE
    ) -> Iterator[Batch]:
        """Batches of ``size``, by the rules of ``Split``, except that the stream defines the order."""
        samples = _Pass(self.samples, self.expected.where, self.length, shuffle or 0)
        for index in batch_indices(self.length, size, shuffle, start, part, self._in_order):
            with torch.random.fork_rng(devices=[]):
                read = [self.expected.checked(samples.at(place), place) for place in index.tolist()]
            yield self.expected.batch(read, index)
        with torch.random.fork_rng(devices=[]):
            samples.expect_the_end()

    def _in_order(self, shuffle: int) -> Tensor:
        del shuffle  # already passed to `set_epoch`
        return torch.arange(self.length)


class _Pass:
    """One pass over a stream; samples are requested by increasing position."""

    def __init__(self, half: Any, where: str, length: int, shuffle: int) -> None:
        self._half, self._where, self._length, self._shuffle = half, where, length, shuffle
        self._place = 0
        self._samples: Iterator[Any] | None = None

    def at(self, place: int) -> Any:
        """The sample at position ``place``; those before it are dropped."""
        while self._place < place:
            self.next()
        return self.next()

    def next(self) -> Any:
        """The next sample. Seeds torch's generator for it; the caller must restore the generator."""
        seed_for(self._place, self._shuffle, self._length)
        sample = self._read()
        if sample is _END:
            raise CompressError(
                f"{self._where} ended after {self._place} samples, expected {self._length}", _HINT
            )
        self._place += 1
        return sample

    def expect_the_end(self) -> None:
        """Read the rest; an error if the stream is longer or shorter than its length."""
        while self._place < self._length:
            self.next()
        if self._read() is not _END:
            raise CompressError(
                f"{self._where} continues after {self._length} samples, expected its end", _HINT
            )

    def _read(self) -> Any:
        try:
            if self._samples is None:
                if hasattr(self._half, "set_epoch"):
                    self._half.set_epoch(self._shuffle)
                self._samples = iter(self._half)
            return next(self._samples, _END)
        except Exception as error:
            raise CompressError(
                f"sample {self._place} of {self._where} failed: {type(error).__name__}: {error}"
            ) from error
