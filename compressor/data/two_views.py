"""One set seen in two ways: by the student, and by the teacher that is asked about the same samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from compressor.data.split import WHOLE, Bad, Batch, Part, Split
from compressor.errors import CompressError


@dataclass(frozen=True)
class TwoViews:
    """A ``Split`` whose batches carry a second view, which another augmentation of the same samples gives."""

    mine: Split
    theirs: Split

    @property
    def fixed(self) -> bool:
        """Whether the teacher sees the same pixels every time; that is what its answers depend on."""
        return self.theirs.fixed

    @property
    def labelled(self) -> bool:
        return self.mine.labelled

    @property
    def bad(self) -> tuple[Bad, ...]:
        return tuple(dict.fromkeys((*self.mine.bad, *self.theirs.bad)))

    @property
    def plain(self) -> Split:
        """The first view without augmentation."""
        return self.mine.plain

    def __len__(self) -> int:
        return len(self.mine)

    def batches(
        self, size: int, *, shuffle: int | None = None, start: int = 0, part: Part = WHOLE
    ) -> Iterator[Batch]:
        """Those of the first view, in its order; without ``shuffle`` both are the stored pictures."""
        mine = self.mine.batches(size, shuffle=shuffle, start=start, part=part)
        if shuffle is None or self.theirs.fixed:  # nobody looks at what a teacher has answered already
            yield from mine
            return
        theirs = self.theirs.batches(size, shuffle=shuffle, start=start, part=part)
        for one, other in zip(mine, theirs, strict=True):
            if not torch.equal(one.index, other.index):
                raise CompressError(
                    "student and teacher were given different samples",
                    "leave data.teacher_augment out: this data set does not repeat its order",
                )
            yield replace(one, theirs=other.images)
