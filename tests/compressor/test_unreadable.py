"""Damage in a data set: borne up to a limit, named, and the same for every run, however it is read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from compressor.data import Batch, Data, Split, load_data, pictures, unreadable
from compressor.data.split import Part
from compressor.data.unreadable import Damage, limit_of
from compressor.errors import CompressError
from compressor.recipe import DataRecipe
from tests.compressor.pictures import encoded, write_folders, write_shard, write_tar


def _folders(tmp_path: Path, broken: tuple[str, ...], **options: Any) -> Data:
    for half in ("train", "val"):
        write_folders(tmp_path / half, 8)
    for name in broken:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:300])
    return load_data(DataRecipe(str(tmp_path), size=8, **options))


def _batches(split: Split, size: int = 4, **options: Any) -> list[Batch]:
    return list(split.batches(size, **options))


def _equal(one: list[Batch], other: list[Batch]) -> bool:
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in zip(one, other, strict=True)
        for name in ("images", "labels", "index")
    )


def test_the_next_picture_in_stored_order_stands_in_for_a_bad_one(tmp_path: Path) -> None:
    train = _folders(tmp_path, ("train/cat/02.png", "train/cat/03.png", "train/cat/07.png")).train
    (whole,) = _batches(train, 99)
    assert whole.index.tolist() == list(range(16))
    assert torch.equal(whole.images[2], whole.images[4])
    assert torch.equal(whole.images[3], whole.images[4])
    assert torch.equal(whole.images[7], whole.images[8])
    assert whole.labels.tolist() == [0] * 7 + [1] * 9  # with the label of the one that is seen
    assert [Path(bad.name).name for bad in train.bad] == ["02.png", "03.png", "07.png"]
    assert "truncated" in str(train.bad[0])


def test_the_first_picture_stands_in_for_the_last(tmp_path: Path) -> None:
    train = _folders(tmp_path, ("train/dog/07.png",)).train
    (whole,) = _batches(train, 99)
    assert torch.equal(whole.images[15], whole.images[0])
    assert whole.labels[15] == 0


def test_a_picture_that_stands_in_for_another_is_another_piece_of_it(tmp_path: Path) -> None:
    train = _folders(tmp_path, ("train/cat/02.png",)).train
    (whole,) = _batches(train, 99, shuffle=1)
    seen = dict(zip(whole.index.tolist(), whole.images, strict=True))
    assert not torch.equal(seen[2], seen[3])


@pytest.mark.parametrize("workers", [1, 4])
def test_damage_changes_nothing_however_the_batches_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    broken = ("train/cat/02.png", "train/cat/03.png", "train/dog/07.png")
    whole = _batches(_folders(tmp_path, broken).train, shuffle=5)
    monkeypatch.setattr(pictures, "decoding_threads", lambda: workers)
    monkeypatch.setattr(pictures, "AHEAD", workers)
    again = load_data(DataRecipe(str(tmp_path), size=8)).train
    assert all(len(batch.images) == 4 for batch in whole)
    assert _equal(_batches(again, shuffle=5, start=3), whole[3:])
    assert _equal(_batches(again, shuffle=5), whole)
    pieces = [_batches(again, shuffle=5, part=Part(number, 3)) for number in range(3)]
    joined = [torch.cat([batch.images for batch in each]) for each in zip(*pieces, strict=True)]
    assert all(torch.equal(one.images, other) for one, other in zip(whole, joined, strict=True))


def test_a_bad_picture_of_the_test_is_left_out(tmp_path: Path) -> None:
    data = _folders(tmp_path, ("val/cat/02.png", "val/dog/00.png"))
    first, second, third, last = _batches(data.test)
    assert first.index.tolist() == [0, 1, 3]
    assert [len(batch.labels) for batch in (second, third, last)] == [4, 3, 4]
    assert first.images.shape == (3, 3, 8, 8)
    assert len(data.test.bad) == 2
    assert data.train.bad == ()


def test_a_batch_of_the_test_may_have_nothing_left(tmp_path: Path) -> None:
    first, *_ = _batches(_folders(tmp_path, ("val/cat/00.png", "val/cat/01.png")).test, 2)
    assert (first.images.shape, first.index.tolist()) == ((0, 3, 8, 8), [])


def test_what_is_bad_counts_once_however_often_it_is_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unreadable, "LEAST_ALLOWED", 1)
    train = _folders(tmp_path, ("train/cat/02.png",)).train
    for shuffle in range(3):
        _batches(train, shuffle=shuffle)
    assert len(train.bad) == 1


@pytest.mark.parametrize("half", ["train", "val"])
def test_more_than_may_be_bad_is_an_error_that_names_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: str
) -> None:
    monkeypatch.setattr(unreadable, "LEAST_ALLOWED", 3)
    monkeypatch.setattr(pictures, "decoding_threads", lambda: 1)
    broken = tuple(f"{half}/cat/0{number}.png" for number in range(5))
    data = _folders(tmp_path, broken)
    split = data.train if half == "train" else data.test
    with pytest.raises(
        CompressError, match=r"more than 3 samples are unreadable: .*00.png`: .*01.png`: "
    ) as caught:
        _batches(split, 16)
    assert "repair or remove them" in str(caught.value.hint)


def test_ten_or_one_in_a_thousand_may_be_bad() -> None:
    assert [limit_of(samples) for samples in (1, 10_999, 11_000, 1_281_167)] == [10, 10, 11, 1281]


def test_a_half_without_a_good_picture_ends_though_all_may_be_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unreadable, "LEAST_ALLOWED", 99)
    broken = tuple(f"train/{name}/0{number}.png" for name in ("cat", "dog") for number in range(8))
    with pytest.raises(CompressError, match="none of the 16 training pictures can be read"):
        _batches(_folders(tmp_path, broken).train)


def test_a_picture_of_a_kind_that_its_name_denies_is_decoded(tmp_path: Path) -> None:
    data = _folders(tmp_path, ())
    (tmp_path / "train/cat/00.png").write_bytes(encoded(0, "jpg"))
    _batches(data.train)
    assert data.train.bad == ()


def test_a_broken_jpeg_in_a_shard_is_named_by_shard_and_key(tmp_path: Path) -> None:
    whole = encoded(1, "jpg")
    members = [
        ("a.jpg", encoded(0, "jpg")),
        ("a.cls", b"0"),
        ("b.jpg", whole[: len(whole) // 2]),
        ("b.cls", b"1"),
        ("c.jpg", encoded(2, "jpg")),
        ("c.cls", b"1"),
    ]
    train, test = write_tar(tmp_path / "train.tar", members), write_shard(tmp_path / "test.tar")
    data = load_data(DataRecipe(str(train), test=str(test), size=8))
    (whole_batch,) = _batches(data.train)
    assert torch.equal(whole_batch.images[1], whole_batch.images[2])
    assert [bad.name for bad in data.train.bad] == [f"{train}/b"]


def test_threads_may_find_damage_at_once() -> None:
    damage = Damage(limit=1000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: damage.add(f"{number % 500:03}", "broken"), range(4000)))
    assert [bad.name for bad in damage.found] == [f"{number:03}" for number in range(500)]
