"""Shards: which are read, what in them is a sample, in what order they come, and what is said of a broken one."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from compressor.data import Data, Split, load_data, shard_index, unreadable
from compressor.data.pictures import PictureSplit
from compressor.data.shard_index import index_of
from compressor.data.shards import WINDOW, Members
from compressor.errors import CompressError, UsageError
from compressor.recipe import DataRecipe
from tests.compressor.pictures import encoded, write_folders, write_shard, write_shards, write_tar


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _load(name: Path | str, seed: int = 0, **options: Any) -> Data:
    return load_data(DataRecipe(str(name), size=8, **options), seed)


def _names(split: Split) -> list[str]:
    assert isinstance(split, PictureSplit)
    return [split.stored.name(number) for number in range(len(split))]


def _shards_of(split: Split) -> list[str]:
    return sorted({Path(name).parent.name for name in _names(split)})


def _order(split: Split, shuffle: int) -> list[int]:
    return [int(i) for batch in split.batches(len(split), shuffle=shuffle) for i in batch.index]


def test_a_range_in_braces_names_shards(tmp_path: Path) -> None:
    write_shards(tmp_path, 12, 2)
    data = _load(tmp_path / "x-{02..11}.tar")
    assert len(data.train) + len(data.test) == 20
    assert sorted(_shards_of(data.train) + _shards_of(data.test)) == [f"x-{n:02}.tar" for n in range(2, 12)]


def test_two_ranges_name_all_pairs_and_digits_are_kept(tmp_path: Path) -> None:
    for name in ("a-8-0", "a-8-1", "a-9-0", "a-9-1", "a-10-0", "a-10-1"):
        write_shard(tmp_path / f"{name}.tar", 2)
    data = _load(tmp_path / "a-{8..10}-{0..1}.tar")
    assert len(data.train) + len(data.test) == 12


@pytest.mark.parametrize("pattern", ["x-*.tar", "", "x-0[0-3].tar"])
def test_a_star_or_the_folder_names_them_all(tmp_path: Path, pattern: str) -> None:
    data = _load(write_shards(tmp_path / "data") / pattern)
    assert len(data.train) + len(data.test) == 20


def test_train_and_val_inside_are_the_halves(tmp_path: Path) -> None:
    write_shards(tmp_path / "data/train", 3, 4)
    write_shards(tmp_path / "data/val", 1, 2)
    data = _load(tmp_path / "data")
    assert (len(data.train), len(data.test)) == (12, 2)
    assert data.name == "data"
    assert data.shape == (3, 8, 8)
    assert data.classes == ("0", "1")
    assert data.test.fixed
    assert not data.train.fixed


def test_other_shards_may_be_named_for_the_test(tmp_path: Path) -> None:
    write_shards(tmp_path, 5, 4)
    data = _load(tmp_path / "x-{00..03}.tar", test=str(tmp_path / "x-04.tar"))
    assert (len(data.train), len(data.test)) == (16, 4)
    with pytest.raises(UsageError, match=r"x-03.tar` is in both halves"):
        _load(tmp_path / "x-{00..03}.tar", test=str(tmp_path / "x-03.tar"))


def test_one_fifth_of_the_shards_is_held_out_by_the_seed(tmp_path: Path) -> None:
    write_shards(tmp_path, 10, 2)
    data, again, other = (_load(tmp_path / "x-*.tar", seed) for seed in (0, 0, 1))
    held = _shards_of(data.test)
    assert len(held) == 2
    assert set(held).isdisjoint(_shards_of(data.train))
    assert _shards_of(again.test) == held
    assert _shards_of(other.test) != held
    assert len(_shards_of(_load(tmp_path / "x-{00..01}.tar").test)) == 1


def test_one_fifth_of_the_samples_of_a_single_shard_is_held_out(tmp_path: Path) -> None:
    data = _load(write_shard(tmp_path / "x.tar", 20))
    train, test = set(_names(data.train)), set(_names(data.test))
    assert (len(train), len(test)) == (16, 4)
    assert train.isdisjoint(test)
    assert set(_names(_load(tmp_path / "x.tar", 1).test)) != test


@pytest.mark.parametrize("ending", shard_index.PICTURES)
@pytest.mark.parametrize("label", shard_index.LABELS)
def test_a_sample_is_a_picture_with_its_label(tmp_path: Path, ending: str, label: str) -> None:
    index = index_of(write_shard(tmp_path / "x.tar", 4, label=label, ending=ending))
    assert index.faults == ()
    assert list(index.labels) == [0, 1, 0, 1]
    (batch,) = _load(tmp_path / "x.tar").test.batches(4)
    assert batch.images.shape == (1, 3, 8, 8)


def test_a_sample_shows_its_own_picture_in_any_order(tmp_path: Path) -> None:
    """A shard and a folder with the same pictures give the same pixels."""
    folder = write_folders(tmp_path / "folder", 10)
    files = sorted(folder.rglob("*.png"))
    members = []
    for number, file in enumerate(files):
        members += [(f"{number:02}.png", file.read_bytes()), (f"{number:02}.cls", str(number // 10).encode())]
    write_tar(tmp_path / "x.tar", members)
    mine, theirs = _load(tmp_path / "x.tar"), _load(folder)
    # By content, as what is held out differs: unaugmented, every picture is found among the others.
    pictures = [
        torch.cat([b.images for half in (d.train, d.test) for b in half.batches(50)]) for d in (mine, theirs)
    ]
    found = {each.numpy().tobytes() for each in pictures[0]}
    assert found == {each.numpy().tobytes() for each in pictures[1]}
    assert len(found) == 20


def test_names_up_to_the_first_dot_in_any_folder_belong_together(tmp_path: Path) -> None:
    members = [
        ("a/1.seg.png", b"a mask, and no picture"),
        ("a/1.PNG", encoded(1)),
        ("b/1.png", encoded(2)),
        ("a/1.cls", b" 1\n"),
        ("b/1.cls", b"0"),
        ("b/notes", b"no ending"),
        ("b/.hidden.png", b"no name"),
        ("b/2.txt", b"a caption without a picture"),
    ]
    index = index_of(write_tar(tmp_path / "x.tar", members))
    assert (index.keys, list(index.labels)) == (("a/1", "b/1"), [1, 0])
    assert index.faults == ()


def test_an_index_is_read_once_for_a_file_that_does_not_change(tmp_path: Path, cache: Path) -> None:
    file = write_shard(tmp_path / "x.tar", 4)
    first = index_of(file)
    (entry,) = (cache / "shards").iterdir()
    entry.write_text(entry.read_text().replace("0003", "kept"))
    assert index_of(file).keys[3] == "kept"
    entry.write_text("{")
    assert index_of(file) == first
    write_shard(file, 5)
    assert len(index_of(file).keys) == 5


def test_shards_are_mixed_and_samples_within_a_window_of_them(tmp_path: Path) -> None:
    write_shards(tmp_path, 3 * WINDOW, 4)
    write_shard(tmp_path / "test.tar")
    train = _load(tmp_path / "x-*.tar", test=str(tmp_path / "test.tar")).train
    assert isinstance(train, PictureSplit)
    assert isinstance(train.stored, Members)
    order = train.stored.mixed(3)
    assert sorted(order.tolist()) == list(range(12 * WINDOW))
    windows = [{number // 4 for number in window.tolist()} for window in order.split(4 * WINDOW)]
    assert [len(window) for window in windows] == [WINDOW] * 3
    first = order[: 4 * WINDOW]
    assert first.tolist() != sorted(first.tolist())
    assert _order(train, 3) == order.tolist() == _order(train, 3)
    assert _order(train, 4) != order.tolist()


@pytest.mark.parametrize("keep", [0.5, 0.75])
def test_a_shard_that_breaks_off_gives_what_it_has_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: float
) -> None:
    write_shards(tmp_path, 3, 6)
    broken = tmp_path / "x-01.tar"
    content = broken.read_bytes()
    cut = int(len(content) * keep)
    broken.write_bytes(content[: cut - cut % 512 + 100])
    write_shard(tmp_path / "test.tar")
    data = _load(tmp_path / "x-*.tar", test=str(tmp_path / "test.tar"))
    assert 12 < len(data.train) < 18
    assert [bad.name for bad in data.train.bad] == [str(broken)]
    assert all(len(batch.images) == 4 for batch in data.train.batches(4, shuffle=1))
    assert len(data.train.bad) == 1
    monkeypatch.setattr(unreadable, "LEAST_ALLOWED", 0)
    with pytest.raises(CompressError, match=f"more than 0 samples are unreadable: `{broken}`: "):
        _load(tmp_path / "x-*.tar", test=str(tmp_path / "test.tar"))


def test_what_is_no_tar_counts_as_one_bad_sample(tmp_path: Path) -> None:
    write_shards(tmp_path, 3, 6)
    (tmp_path / "x-00.tar").write_bytes(b"<html>not found</html>" * 100)
    (tmp_path / "x-01.tar").write_bytes(b"")
    write_shard(tmp_path / "test.tar")
    data = _load(tmp_path / "x-*.tar", test=str(tmp_path / "test.tar"))
    assert len(data.train) == 6
    assert [Path(bad.name).name for bad in data.train.bad] == ["x-00.tar", "x-01.tar"]


def test_garbage_in_the_middle_of_a_shard_is_found(tmp_path: Path) -> None:
    file = write_shard(tmp_path / "x.tar", 6)
    content = bytearray(file.read_bytes())
    third = index_of(file).offsets[3] - 512
    content[third : third + 512] = b"x" * 512
    file.write_bytes(content)
    index = index_of(file)
    assert len(index.keys) == 3
    assert index.faults == (("", f"it is not a tar file after byte {third:,}"),)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a.png", encoded(1))], "no label: expected a member .cls, .txt or .json with the same key"),
        ([("a.png", encoded(1)), ("a.txt", b"a cat")], r"its .txt has label 'a cat', expected an integer"),
        (
            [("a.png", encoded(1)), ("a.cls", b"-1")],
            "its .cls has label '-1', expected an integer of at least 0",
        ),
        ([("a.png", encoded(1)), ("a.json", b"{")], "its .json is not valid JSON"),
        ([("a.png", encoded(1)), ("a.json", b"[1]")], "its .json has label 'None'"),
        ([("a.png", encoded(1)), ("a.json", b'{"label": 1.5}')], r"its .json has label '1.5'"),
        ([("a.png", encoded(1)), ("a.json", b'{"label": true}')], "its .json has label 'True'"),
    ],
)
def test_a_sample_without_a_usable_label_is_bad_and_named(
    tmp_path: Path, members: list[tuple[str, bytes]], reason: str
) -> None:
    good = [("b.png", encoded(2)), ("b.cls", b"1"), ("c.png", encoded(3)), ("c.cls", b"0")]
    file = write_tar(tmp_path / "x.tar", members + good)
    (bad,) = _load(file).train.bad
    assert bad.name == f"{file}/a"
    assert bad.reason.startswith(reason)


def test_a_shard_that_lost_its_end_after_it_was_indexed_is_bad_where_it_is_read(tmp_path: Path) -> None:
    write_shards(tmp_path, 2, 4)
    data = _load(tmp_path / "x-00.tar", test=str(tmp_path / "x-01.tar"))
    with (tmp_path / "x-00.tar").open("r+b") as file:
        file.truncate(index_of(tmp_path / "x-00.tar").offsets[3] + 10)
    (batch,) = data.train.batches(4)
    assert torch.equal(batch.images[3], batch.images[0])
    assert data.train.bad[0].reason.startswith("the shard ends after 10 of its")


def test_the_number_of_classes_may_be_given(tmp_path: Path) -> None:
    write_shards(tmp_path)
    assert len(_load(tmp_path, classes=5).classes) == 5
    write_tar(tmp_path / "x-99.tar", [("a.png", encoded(1)), ("a.cls", b"7")])
    with pytest.raises(CompressError, match="has label 7, expected 0 to 4 of 5 classes"):
        _load(tmp_path, classes=5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x-{00..04}.tar", r"no shard `.*x-04.tar`"),
        ("x-{03..00}.tar", r"range `\{03..00\}` in .* runs backwards"),
        ("y-*.tar", r"no shard `.*y-\*.tar`"),
        ("https://host/x-{0..3}.tar.gz", "does not end in .tar"),
        ("x-00.tar.gz", "is a file, expected a folder of class folders, or shards"),
    ],
)
def test_a_pattern_that_names_no_shard_says_so(tmp_path: Path, name: str, message: str) -> None:
    write_shards(tmp_path)
    (tmp_path / "x-00.tar.gz").touch()
    with pytest.raises(UsageError, match=message):
        _load(name if name.startswith("https") else tmp_path / name)


def test_shards_without_samples_say_what_a_sample_is(tmp_path: Path) -> None:
    write_tar(tmp_path / "x-0.tar", [("readme.md", b"nothing")])
    write_shard(tmp_path / "x-1.tar")
    with pytest.raises(CompressError, match=r"no samples in `.*x-0.tar`") as caught:
        _load(tmp_path / "x-0.tar", test=str(tmp_path / "x-1.tar"))
    assert "KEY.jpg" in str(caught.value.hint)
    with pytest.raises(CompressError, match="has 0 samples, expected at least 2"):
        _load(tmp_path / "x-0.tar")


def test_long_names_and_links_do_not_disturb(tmp_path: Path) -> None:
    long = "very/" * 40 + "long"
    write_tar(tmp_path / "x.tar", [(f"{long}.png", encoded(1)), (f"{long}.cls", b"1")])
    with tarfile.open(tmp_path / "x.tar", "a") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, f"{long}.png"
        tar.addfile(link)
    assert index_of(tmp_path / "x.tar").keys == (long,)


@pytest.mark.parametrize("name", ["glyphs", "tests.compressor.test_data_factory:squares"])
def test_test_shards_beside_another_source_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"`test` has no effect on data `{name}`"):
        load_data(DataRecipe(name, test="x.tar"))
