"""What every split promises: any batch of a pass can be had alone, and by pieces, and is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compressor.data import Batch, Split, load_data
from compressor.data.factory import data_from
from compressor.data.glyphs import load_glyphs
from compressor.data.split import Part, batch_indices
from compressor.recipe import DataRecipe
from tests.compressor.pictures import write_folders, write_shards


class Noisy:
    """Fourteen images of which each pass shows others, as a map-style data set."""

    classes = ("even", "odd")

    def __len__(self) -> int:
        return 14

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return number + torch.rand(1, 4, 4), number % 2


class Streamed:
    """The same images, in an order that follows the epoch, as an iterable."""

    classes = ("even", "odd")
    epoch = 0

    def __len__(self) -> int:
        return 14

    def set_epoch(self, number: int) -> None:
        self.epoch = number

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for number in range(14):
            yield (number + self.epoch) % 14 + torch.rand(1, 4, 4), number % 2


def _glyphs(tmp_path: Path) -> Split:
    del tmp_path
    return load_glyphs(classes=2, train=14, test=2, size=8, augment="trivialaugment").train


def _folder(tmp_path: Path) -> Split:
    return load_data(DataRecipe(str(write_folders(tmp_path, 9)), size=8, augment="randaugment")).train


def _shards(tmp_path: Path) -> Split:
    return load_data(DataRecipe(str(write_shards(tmp_path, 4, 5)), size=8)).train


def _map_style(tmp_path: Path) -> Split:
    del tmp_path
    return data_from(Noisy(), Noisy()).train


def _stream(tmp_path: Path) -> Split:
    del tmp_path
    return data_from(Streamed(), Streamed()).train


Made = Callable[[Path], Split]
every_split = pytest.mark.parametrize("made", [_glyphs, _folder, _shards, _map_style, _stream])
any_pass = pytest.mark.parametrize("shuffle", [None, 3])


def _same(one: Batch, other: Batch) -> bool:
    return all(
        torch.equal(mine, yours)
        for mine, yours in ((one.images, other.images), (one.labels, other.labels), (one.index, other.index))
    )


@every_split
@any_pass
def test_a_pass_can_begin_at_any_batch(tmp_path: Path, made: Made, shuffle: int | None) -> None:
    split = made(tmp_path)
    whole = list(split.batches(4, shuffle=shuffle))
    assert len(whole) == len(split) // 4 + (shuffle is None and len(split) % 4 > 0)
    for start in range(len(whole) + 2):
        later = list(split.batches(4, shuffle=shuffle, start=start))
        assert len(later) == len(whole[start:])
        assert all(_same(*pair) for pair in zip(later, whole[start:], strict=True))


@every_split
@any_pass
@pytest.mark.parametrize("of", [1, 2, 3])
def test_the_parts_of_all_processes_are_the_batches_of_one(
    tmp_path: Path, made: Made, shuffle: int | None, of: int
) -> None:
    split = made(tmp_path)
    whole = list(split.batches(4, shuffle=shuffle, start=1))
    parts = [list(split.batches(4, shuffle=shuffle, start=1, part=Part(number, of))) for number in range(of)]
    for batch, *pieces in zip(whole, *parts, strict=True):
        joined = Batch(
            *(torch.cat([getattr(p, name) for p in pieces]) for name in ("images", "labels", "index"))
        )
        assert _same(batch, joined)


@every_split
def test_a_part_with_no_sample_is_still_a_batch(tmp_path: Path, made: Made) -> None:
    split = made(tmp_path)
    size = len(split) - 1  # leaves one sample for the last batch
    *_, last = split.batches(size, part=Part(1, 2))
    (full, _) = split.batches(size)
    assert last.images.shape == (0, *full.images.shape[1:])
    assert last.images.dtype == full.images.dtype
    assert (last.labels.shape, last.index.shape) == ((0,), (0,))
    assert (last.labels.dtype, last.index.dtype) == (torch.int64, torch.int64)


@every_split
def test_a_pass_neither_reads_nor_moves_torchs_generator(tmp_path: Path, made: Made) -> None:
    split = made(tmp_path)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = list(split.batches(4, shuffle=2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert all(_same(*pair) for pair in zip(first, split.batches(4, shuffle=2), strict=True))


@every_split
def test_a_split_says_that_it_has_labels_and_what_was_bad(tmp_path: Path, made: Made) -> None:
    split = made(tmp_path)
    assert split.labelled
    assert split.bad == ()


def test_what_is_passed_over_is_not_read() -> None:
    class Counting(Noisy):
        read: list[int] = []  # noqa: RUF012

        def __getitem__(self, number: int) -> Any:
            self.read.append(number)
            return super().__getitem__(number)

    split = data_from(Counting(), Noisy()).train
    Counting.read.clear()
    (batch,) = split.batches(4, shuffle=1, start=2, part=Part(1, 2))
    assert Counting.read == batch.index.tolist()
    assert len(Counting.read) == 2


@pytest.mark.parametrize(("number", "of"), [(2, 2), (-1, 1), (0, 0)])
def test_a_part_that_is_none_of_them_is_refused(number: int, of: int) -> None:
    with pytest.raises(ValueError, match="expected 0 to"):
        Part(number, of)


def test_pieces_are_consecutive_and_differ_by_one_at_most() -> None:
    (whole,) = batch_indices(7, 7, 5)
    pieces = [batch_indices(7, 7, 5, part=Part(number, 3))[0] for number in range(3)]
    assert [len(piece) for piece in pieces] == [3, 2, 2]
    assert torch.equal(torch.cat(pieces), whole)


@any_pass
def test_nothing_has_no_batches(shuffle: int | None) -> None:
    assert batch_indices(0, 4, shuffle) == []
