"""Split with two views of the same samples: one for the student, one for the teacher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from compressor.data.split import WHOLE, Bad, Batch, Part, Split
from compressor.errors import CompressError


@dataclass(frozen=True)
class TwoViews:
    """A ``Split`` whose batches also contain a second view of the samples, with another augmentation."""

    mine: Split
    theirs: Split

    @property
    def fixed(self) -> bool:
        """True if the teacher's view has the same pixels every time, so that its logits may be stored."""
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
        """Batches of the student's view, by the rules of ``Split``, with the teacher's images in ``theirs``.

        ``theirs`` is not set without ``shuffle``, or if the teacher's view is fixed.
        """
        batches = self.mine.batches(size, shuffle=shuffle, start=start, part=part)
        if shuffle is None or self.theirs.fixed:  # the teacher's stored logits are used, not its images
            yield from batches
            return
        teacher_batches = self.theirs.batches(size, shuffle=shuffle, start=start, part=part)
        for batch, teacher_batch in zip(batches, teacher_batches, strict=True):
            if not torch.equal(batch.index, teacher_batch.index):
                raise CompressError(
                    "student and teacher got different samples: this data set does not repeat its order",
                    "remove data.teacher_augment",
                )
            yield replace(batch, theirs=teacher_batch.images)
