"""Pictures in folders: which are trained on, what is seen of them, and what is said when one is wrong."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from compressor.data import Data, load_data, pictures, unreadable
from compressor.data.folders import Files
from compressor.data.pictures import PictureSplit
from compressor.errors import CompressError, UsageError
from compressor.recipe import DataRecipe

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def _picture(file: Path, colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)


def _class_folders(folder: Path, count: int = 10, names: tuple[str, ...] = ("cat", "dog")) -> Path:
    for name, colour in zip(names, (RED, GREEN, BLUE), strict=False):
        for number in range(count):
            _picture(folder / name / f"{number:02}.png", colour)
    return folder


def _load(folder: Path, seed: int = 0, size: int = 16, **options: Any) -> Data:
    return load_data(DataRecipe(str(folder), size=size, normalise=((0.0,) * 3, (1.0,) * 3), **options), seed)


def _files(split: object) -> tuple[Path, ...]:
    assert isinstance(split, PictureSplit)
    assert isinstance(split.stored, Files)
    return split.stored.paths


def test_train_and_val_inside_are_the_halves(tmp_path: Path) -> None:
    _class_folders(tmp_path / "train", 4)
    _class_folders(tmp_path / "val", 2)
    data = _load(tmp_path)
    assert (len(data.train), len(data.test)) == (8, 4)
    assert data.classes == ("cat", "dog")
    assert data.shape == (3, 16, 16)


def test_test_may_stand_in_place_of_val(tmp_path: Path) -> None:
    _class_folders(tmp_path / "train", 4)
    _class_folders(tmp_path / "test", 2)
    assert len(_load(tmp_path).test) == 4


def test_a_single_folder_is_divided_by_class_and_seed(tmp_path: Path) -> None:
    _class_folders(tmp_path, 10)
    data, again, other = (_load(tmp_path, seed) for seed in (0, 0, 1))
    train, test = _files(data.train), _files(data.test)
    assert sorted([*train, *test]) == sorted(tmp_path.rglob("*.png"))
    assert [file.parent.name for file in test] == ["cat", "cat", "dog", "dog"]
    assert _files(again.test) == test
    assert _files(other.test) != test


def test_a_folder_train_that_holds_pictures_is_the_class_of_trains(tmp_path: Path) -> None:
    assert _load(_class_folders(tmp_path, 5, ("bus", "train"))).classes == ("bus", "train")


def test_labels_are_the_places_in_the_list_of_classes(tmp_path: Path) -> None:
    data = _load(_class_folders(tmp_path, 5, ("a", "b", "c")))
    (batch,) = data.test.batches(10)
    assert batch.labels.tolist() == [0, 1, 2]
    assert batch.index.tolist() == [0, 1, 2]
    # Red is class 0, and so on: the brightest channel is the label.
    assert batch.images.mean(dim=(2, 3)).argmax(dim=1).tolist() == [0, 1, 2]


def test_the_test_sees_the_middle_of_a_picture(tmp_path: Path) -> None:
    _class_folders(tmp_path, 2)
    wide = Image.new("RGB", (120, 40), RED)
    wide.paste(BLUE, (40, 0, 80, 40))
    for number in range(2):
        wide.save(tmp_path / "dog" / f"{number:02}.png")
    data = _load(tmp_path)
    batch = list(data.test.batches(10))[-1]
    assert torch.equal(batch.images[-1, 2], torch.ones(16, 16))
    assert data.test.fixed


def _speckled(tmp_path: Path, **options: Any) -> Data:
    for name in ("cat", "dog"):
        for number in range(10):
            file = tmp_path / name / f"{number}.png"
            file.parent.mkdir(exist_ok=True)
            pixels = torch.randint(256, (30 * 40 * 3,), generator=torch.Generator().manual_seed(number))
            Image.frombytes("RGB", (40, 30), bytes(pixels.tolist())).save(file)
    return _load(tmp_path, **options)


def test_order_and_augmentation_depend_on_the_shuffle_number_alone(tmp_path: Path) -> None:
    train = _speckled(tmp_path).train
    assert not train.fixed

    def seen(size: int, shuffle: int) -> dict[int, torch.Tensor]:
        batches = train.batches(size, shuffle=shuffle)
        return {int(i): x for b in batches for i, x in zip(b.index, b.images, strict=True)}

    first, other_batches, other_number = seen(4, 1), seen(8, 1), seen(4, 2)
    assert list(first) == list(other_batches) != list(other_number)
    assert all(torch.equal(first[number], other_batches[number]) for number in first)
    assert not any(torch.equal(first[number], other_number[number]) for number in first)


def test_without_shuffle_training_pictures_are_not_augmented(tmp_path: Path) -> None:
    train = _speckled(tmp_path).train
    first, again = (next(train.batches(16)).images for _ in range(2))
    assert torch.equal(first, again)


def test_a_batch_that_is_not_full_is_left_out_only_when_shuffled(tmp_path: Path) -> None:
    train = _load(_class_folders(tmp_path, 10)).train
    assert [len(batch.index) for batch in train.batches(6)] == [6, 6, 4]
    assert [len(batch.index) for batch in train.batches(6, shuffle=0)] == [6, 6]
    assert [len(batch.index) for batch in train.batches(99, shuffle=0)] == [16]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_any_kind_of_picture_becomes_rgb(tmp_path: Path, mode: str) -> None:
    _class_folders(tmp_path, 2)
    for number in range(2):
        Image.new(mode, (20, 50)).save(tmp_path / "cat" / f"{number:02}.png")
    (batch,) = _load(tmp_path).test.batches(8)
    assert batch.images.shape == (2, 3, 16, 16)


def test_the_usual_size_and_scale_are_those_of_imagenet(tmp_path: Path) -> None:
    data = load_data(DataRecipe(str(_class_folders(tmp_path, 2))))
    (batch,) = data.test.batches(2)
    assert batch.images.shape == (2, 3, 224, 224)
    assert batch.images[0, 0, 0, 0].item() == pytest.approx((1 - 0.485) / 0.229)


def test_other_files_and_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    _class_folders(tmp_path, 5)
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / ".cache").mkdir()
    assert len(_load(tmp_path).train) == 8


def _one_class(folder: Path) -> None:
    _class_folders(folder, 3, ("cat",))


def _no_class(folder: Path) -> None:
    _picture(folder / "loose.png", RED)


def _empty_class(folder: Path) -> None:
    (_class_folders(folder) / "fox").mkdir()


def _lonely_class(folder: Path) -> None:
    _picture(_class_folders(folder) / "fox" / "0.png", BLUE)


def _no_test(folder: Path) -> None:
    _class_folders(folder / "train")


def _empty_test(folder: Path) -> None:
    _class_folders(folder / "train")
    (folder / "val").mkdir()


def _other_classes(folder: Path) -> None:
    _class_folders(folder / "train", 2, ("cat", "dog"))
    _class_folders(folder / "val", 2, ("cat", "fox"))


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (_one_class, "has 1 class folders, expected at least 2"),
        (_no_class, "has 0 class folders, expected at least 2"),
        (_empty_class, "class folder `.*fox` has no pictures"),
        (_lonely_class, "class `fox` has 1 picture, expected at least 2"),
        (_no_test, "has train/ but neither val/ nor test/"),
        (_empty_test, "have different classes; only in one of them: `cat`, `dog`"),
        (_other_classes, "have different classes; only in one of them: `dog`, `fox`"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(
    tmp_path: Path, prepare: Callable[[Path], None], message: str
) -> None:
    prepare(tmp_path)
    with pytest.raises(CompressError, match=message):
        _load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a picture", None])
def test_an_unreadable_picture_is_named_and_the_end_where_none_may_be_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    monkeypatch.setattr(unreadable, "LEAST_ALLOWED", 0)
    data = _speckled(tmp_path)
    file = _files(data.train)[3]
    file.write_bytes(file.read_bytes()[:200] if content is None else content)
    with pytest.raises(CompressError, match=f"more than 0 samples are unreadable: `{file}`"):
        list(data.train.batches(4, shuffle=0))


@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_so_many_batches_are_decoded_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefetch: int
) -> None:
    monkeypatch.setattr(pictures, "AHEAD", prefetch)
    monkeypatch.setattr(pictures, "decoding_threads", lambda: 1)
    train = _speckled(tmp_path).train
    asked: list[int] = []

    class Watched:
        def __init__(self, stored: Any) -> None:
            self.stored = stored

        def name(self, number: int) -> str:
            return str(number)

        def file(self, number: int) -> Path:
            asked.append(number)
            return Path(self.stored.file(number))

    assert isinstance(train, PictureSplit)
    batches = replace(train, stored=Watched(train.stored)).batches(2)
    next(batches)
    deadline = time.monotonic() + 10
    while len(asked) < 2 * (1 + prefetch) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert asked == list(range(2 * (1 + prefetch)))
    batches.close()  # type: ignore[attr-defined]


# Without labels


def _unlabelled(tmp_path: Path, data: str = "", **options: Any) -> Data:
    data = data or str(_class_folders(tmp_path / "labelled", 5))
    if not (tmp_path / "loose").exists():
        _picture(tmp_path / "loose/1.png", RED)
        _picture(tmp_path / "loose/deep/2.jpg", GREEN)
        _picture(tmp_path / "loose/deep/er/3.png", BLUE)
        (tmp_path / "loose/notes.txt").touch()
    return load_data(DataRecipe(data, unlabelled=str(tmp_path / "loose"), **options))


def test_pictures_without_classes_take_the_place_of_the_training_half(tmp_path: Path) -> None:
    data = _unlabelled(tmp_path, size=16, normalise=((0.0,) * 3, (1.0,) * 3))
    assert (len(data.train), len(data.test)) == (3, 2)
    assert (data.train.labelled, data.test.labelled) == (False, True)
    assert not data.train.fixed
    assert data.classes == ("cat", "dog")
    (batch,) = data.train.batches(4)
    assert batch.labels.tolist() == [-1, -1, -1]
    assert batch.images.mean(dim=(2, 3)).argmax(dim=1).tolist() == [0, 1, 2]
    assert batch.images.shape == (3, 3, 16, 16)


def test_pictures_without_classes_have_the_size_and_scale_of_the_data(tmp_path: Path) -> None:
    data = _unlabelled(tmp_path, "glyphs", size=20, augment="none")
    (batch,) = data.train.batches(4, shuffle=1)
    assert data.train.fixed
    assert batch.images.shape == (3, 3, 20, 20)
    # The glyphs' own scale: black is -2 and white is 2 (a JPEG is off by a step).
    assert batch.images.aminmax().min.item() == pytest.approx(-2, abs=0.1)
    assert batch.images.aminmax().max.item() == pytest.approx(2, abs=0.1)


def test_pictures_without_classes_may_be_bad_too(tmp_path: Path) -> None:
    _unlabelled(tmp_path)
    (tmp_path / "loose/1.png").write_bytes(b"nothing")
    train = _unlabelled(tmp_path).train
    (batch,) = train.batches(4)
    assert batch.labels.tolist() == [-1, -1, -1]
    assert [bad.name for bad in train.bad] == [str(tmp_path / "loose/1.png")]


def test_a_folder_of_pictures_without_classes_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CompressError, match="empty` has no pictures"):
        load_data(DataRecipe("glyphs", unlabelled=str(tmp_path / "empty")))
    with pytest.raises(UsageError, match="no folder `nowhere`"):
        load_data(DataRecipe("glyphs", unlabelled="nowhere"))
    with pytest.raises(UsageError, match="the scaling of its images is unknown"):
        load_data(
            DataRecipe("tests.compressor.test_data_factory:squares", unlabelled=str(tmp_path / "empty"))
        )
