"""Samples from the user's own code that can only be read in their order, from the beginning.

Every pass begins the iterable anew. A half that has ``set_epoch(number)`` is told the shuffle number
first (0 where there is none) and may order itself by it; nothing here mixes the samples. What is not
wanted, the batches before ``start`` and the pieces of other processes, is read and dropped: a stream
that is slow to read is better given as shards or as a map-style data set. A sample's number is its
place in the pass. Left out: streams without an end, which promise no number of batches.
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
_HINT = "`data.samples` in the recipe, or len() of the half, says how many one pass gives"


def is_stream(half: Any) -> bool:
    """Whether this can be read in its order alone, and begun anew."""
    # torch's class has an index by inheritance, which fails when it is used.
    indexed = hasattr(half, "__getitem__") and not isinstance(half, IterableDataset)
    return hasattr(half, "__iter__") and not indexed and not isinstance(half, Iterator)


def first_of(half: Any, where: str, length: int) -> Any:
    """Its first sample, whose image says the shape of all."""
    with torch.random.fork_rng(devices=[]):
        return _Pass(half, where, length, 0).next()


@dataclass(frozen=True)
class StreamSplit:
    """An iterable of the user's own, of which one pass has ``length`` samples."""

    samples: Any
    length: int
    expected: Expected

    fixed: ClassVar = False  # a stream may augment, and may order itself anew
    labelled: ClassVar = True
    bad: ClassVar[tuple[Bad, ...]] = ()  # what the user's own code cannot read is an error

    @property
    def plain(self) -> StreamSplit:
        """Itself: what the user's own code changes cannot be switched off from outside."""
        return self

    def __len__(self) -> int:
        return self.length

    def batches(
        self, size: int, *, shuffle: int | None = None, start: int = 0, part: Part = WHOLE
    ) -> Iterator[Batch]:
        """Batches of ``size``; the rules are those of ``Split``, but for the order, which is the stream's."""
        samples = _Pass(self.samples, self.expected.where, self.length, shuffle or 0)
        for index in batch_indices(self.length, size, shuffle, start, part, self._in_order):
            with torch.random.fork_rng(devices=[]):
                read = [self.expected.checked(samples.at(place), place) for place in index.tolist()]
            yield self.expected.batch(read, index)
        with torch.random.fork_rng(devices=[]):
            samples.expect_the_end()

    def _in_order(self, shuffle: int) -> Tensor:
        del shuffle  # the stream has been told
        return torch.arange(self.length)


class _Pass:
    """One pass over a stream, whose samples are asked for by places that only grow."""

    def __init__(self, half: Any, where: str, length: int, shuffle: int) -> None:
        self._half, self._where, self._length, self._shuffle = half, where, length, shuffle
        self._place = 0
        self._samples: Iterator[Any] | None = None

    def at(self, place: int) -> Any:
        """The sample at this place; those before it are dropped."""
        while self._place < place:
            self.next()
        return self.next()

    def next(self) -> Any:
        """The next sample; torch's generator is seeded for it, and is not given back."""
        seed_for(self._place, self._shuffle, self._length)
        sample = self._read()
        if sample is _END:
            raise CompressError(
                f"{self._where} ended after {self._place} samples, expected {self._length}", _HINT
            )
        self._place += 1
        return sample

    def expect_the_end(self) -> None:
        """Read the rest, which must be as long as was promised."""
        while self._place < self._length:
            self.next()
        if self._read() is not _END:
            raise CompressError(f"{self._where} goes on after {self._length} samples", _HINT)

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
