"""Names, published sets and factories: what is asked for is what comes, and what is wrong is named."""

import hashlib
import math
import pickle
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from compressor.data import Data, load_data
from compressor.data.in_memory import TensorSplit, crop_and_flip
from compressor.data.published import CIFAR10, load_published
from compressor.data.scaling import Scaling
from compressor.errors import CompressError, UsageError
from compressor.recipe import DataRecipe


def _all(data: Data, size: int = 3) -> Tensor:
    return torch.cat([batch.images for batch in data.train.batches(size)])


def _counting(count: int = 10, **options: Any) -> TensorSplit:
    """Images 4 by 4 that are all different, on a scale that leaves them as they are."""
    images = (torch.arange(count * 48) % 251).to(torch.uint8).view(count, 3, 4, 4)
    identity = Scaling((0.0,) * 3, (1 / 255,) * 3)
    return TensorSplit(images, torch.arange(count), identity, **options)


# In memory


def test_without_shuffle_every_sample_comes_once_in_order() -> None:
    batches = list(_counting().batches(4))
    assert [len(batch.index) for batch in batches] == [4, 4, 2]
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(10))


def test_with_shuffle_a_last_batch_that_is_not_full_is_left_out() -> None:
    batches = list(_counting().batches(4, shuffle=0))
    assert [len(batch.index) for batch in batches] == [4, 4]


def test_with_shuffle_the_only_batch_stays_though_it_is_not_full() -> None:
    (batch,) = _counting().batches(64, shuffle=0)
    assert sorted(batch.index.tolist()) == list(range(10))


def test_the_shuffle_number_decides_the_order() -> None:
    first, again, other = (
        torch.cat([batch.index for batch in _counting(100).batches(10, shuffle=number)])
        for number in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_sample_keeps_its_number_and_label_whatever_the_order() -> None:
    split = _counting()
    for batch in split.batches(5, shuffle=1):
        assert torch.equal(batch.labels, batch.index)
        torch.testing.assert_close(batch.images, split.images[batch.index].float(), rtol=0, atol=1e-4)


def test_augmentation_does_not_depend_on_the_batch_size() -> None:
    split = _counting(12, augment=crop_and_flip)
    small, large = (
        {
            int(i): image
            for b in split.batches(size, shuffle=5)
            for i, image in zip(b.index, b.images, strict=True)
        }
        for size in (2, 6)
    )
    assert all(torch.equal(small[number], large[number]) for number in range(12))


def test_only_a_split_without_augmentation_is_fixed() -> None:
    assert _counting().fixed
    assert not _counting(augment=crop_and_flip).fixed


def test_crop_and_flip_is_a_shift_over_black_and_a_mirror() -> None:
    images = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8)
    middle, edge = (4.5 / 9, 8.5 / 9)
    untouched = crop_and_flip(images, torch.tensor([[middle, middle, 0.2]]))
    mirrored = crop_and_flip(images, torch.tensor([[middle, middle, 0.7]]))
    shifted = crop_and_flip(images, torch.tensor([[edge, middle, 0.2]]))
    assert torch.equal(untouched, images)
    assert torch.equal(mirrored, images.flip(3))
    assert torch.equal(shifted[:, :, :4], images[:, :, 4:])
    assert shifted[:, :, 4:].sum() == 0


def test_images_are_resized_batch_by_batch() -> None:
    batch = next(_counting(side=9).batches(2))
    assert batch.images.shape == (2, 3, 9, 9)


# Published sets


def _write_mnist(root: Path, folder: str = "MNIST", count: int = 20) -> None:
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for half, base in (("train", 0), ("t10k", 100)):
        pixels = bytes((base + i // 784) % 256 for i in range(count * 784))
        labels = bytes(i % 10 for i in range(count))
        (raw / f"{half}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + pixels)
        (raw / f"{half}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels)


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_mnist_is_read_from_its_published_files(tmp_path: Path, name: str, folder: str) -> None:
    _write_mnist(tmp_path, folder)
    data = load_data(DataRecipe(name, root=str(tmp_path)))
    assert data.shape == (1, 28, 28)
    assert len(data.classes) == 10
    assert (len(data.train), len(data.test), data.train.fixed) == (20, 20, True)
    assert _all(data).shape == (20, 1, 28, 28)
    (batch,) = data.test.batches(50)
    assert batch.labels.tolist() == [i % 10 for i in range(20)]


def test_grey_is_repeated_to_three_channels_for_three_means(tmp_path: Path) -> None:
    _write_mnist(tmp_path)
    data = load_data(DataRecipe("mnist", root=str(tmp_path), normalise=((0.0,) * 3, (1.0, 1.0, 0.5))))
    images = _all(data)
    assert data.shape == (3, 28, 28)
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0] * 2, images[:, 2])


def test_a_size_resizes_a_published_set(tmp_path: Path) -> None:
    _write_mnist(tmp_path)
    data = load_data(DataRecipe("mnist", root=str(tmp_path), size=32))
    assert data.shape == (1, 32, 32)
    assert _all(data).shape == (20, 1, 32, 32)


@pytest.mark.parametrize("colour", [(), ((0.0,) * 3, (0.3081,) * 3)])
def test_a_published_set_is_varied_by_a_policy_before_it_is_resized(
    tmp_path: Path, colour: tuple[tuple[float, ...], ...]
) -> None:
    _write_mnist(tmp_path)
    recipe = DataRecipe("mnist", root=str(tmp_path), size=16, normalise=colour, augment="randaugment")
    train = load_data(recipe).train
    plain = next(load_data(replace(recipe, augment="default")).train.batches(20, shuffle=1)).images
    first, again = (torch.cat([b.images for b in train.batches(n, shuffle=1)]) for n in (20, 4))
    assert not train.fixed
    assert first.shape == plain.shape == (20, 3 if colour else 1, 16, 16)
    # Resizing is float arithmetic, which another number of images may round otherwise.
    torch.testing.assert_close(first, again, rtol=0, atol=1e-5)
    assert not torch.equal(first, plain)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (((0.0, 0.0), (1.0, 1.0)), "expected two lists, each with a value for each of 1 channels"),
        (((0.0,),), r"is \[\[0.0\]\], expected two lists"),
        (((math.inf,), (1.0,)), "expected finite numbers"),
        (((0.0,), (0.0,)), "expected standard deviations above 0"),
    ],
)
def test_wrong_means_and_deviations_are_refused(
    tmp_path: Path, wrong: tuple[tuple[float, ...], ...], message: str
) -> None:
    _write_mnist(tmp_path)
    with pytest.raises(UsageError, match=message):
        load_data(DataRecipe("mnist", root=str(tmp_path), normalise=wrong))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_a_published_set_without_a_root_says_which_flag_is_missing(name: str) -> None:
    with pytest.raises(UsageError, match="needs a folder") as caught:
        load_data(DataRecipe(name))
    assert "data.root" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_absent_files_are_not_downloaded_unasked(tmp_path: Path, name: str) -> None:
    with pytest.raises(CompressError, match=f"cannot read data set `{name}`") as caught:
        load_data(DataRecipe(name, root=str(tmp_path)))
    assert "data.download=true" in str(caught.value.hint)
    assert str(tmp_path) in str(caught.value.hint)
    assert not any(file.is_file() for file in tmp_path.rglob("*"))


def test_a_damaged_file_is_an_error_with_a_place(tmp_path: Path) -> None:
    _write_mnist(tmp_path)
    file = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CompressError, match="MNIST/raw"):
        load_data(DataRecipe("mnist", root=str(tmp_path)))


class SmallCifar(CIFAR10.reader):  # type: ignore[misc]
    """The same reader, for files of the same format that this test writes."""

    folder = CIFAR10.folder
    train_list: ClassVar = [["data_batch_1", ""]]
    test_list: ClassVar = [["test_batch", ""]]
    meta: ClassVar = {"filename": "batches.meta", "key": "label_names", "md5": ""}

    @classmethod
    def write(cls, root: Path) -> None:
        (root / cls.folder).mkdir()
        pixels = np.arange(6 * 3072, dtype=np.uint32).astype(np.uint8).reshape(6, 3072)
        batch = pickle.dumps({"data": pixels, "labels": [0, 1, 2, 0, 1, 2]})
        names = pickle.dumps({"label_names": ["plane", "car", "bird"]})
        for entry, content in ((cls.train_list[0], batch), (cls.test_list[0], batch)):
            (root / cls.folder / entry[0]).write_bytes(content)
            entry[1] = hashlib.md5(content).hexdigest()
        (root / cls.folder / cls.meta["filename"]).write_bytes(names)
        cls.meta["md5"] = hashlib.md5(names).hexdigest()


def test_cifar_is_read_in_colour_and_augmented_for_training(tmp_path: Path) -> None:
    SmallCifar.write(tmp_path)
    small = replace(CIFAR10, reader=SmallCifar)
    data = load_published(
        small, DataRecipe("cifar10", root=str(tmp_path), normalise=(CIFAR10.scaling.mean, (1.0,) * 3))
    )
    assert data.classes == ("plane", "car", "bird")
    assert data.shape == (3, 32, 32)
    assert not data.train.fixed
    assert data.test.fixed
    (batch,) = data.test.batches(10)
    first_of_green = 1024 % 256 / 255
    assert batch.images[0, 1, 0, 0].item() == pytest.approx(first_of_green - 0.4822)
    assert batch.images[0, 0, 1, 3].item() == pytest.approx(35 / 255 - 0.4914)
    assert batch.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_cifar_is_not_augmented_if_none_is_asked_for(tmp_path: Path) -> None:
    SmallCifar.write(tmp_path)
    small = replace(CIFAR10, reader=SmallCifar)
    assert load_published(small, DataRecipe("cifar10", root=str(tmp_path), augment="none")).train.fixed


def test_a_cifar_file_that_its_authors_did_not_write_is_never_opened(tmp_path: Path) -> None:
    """A pickle can run any code; this one would leave a mark."""
    mark = tmp_path / "mark"
    folder = tmp_path / CIFAR10.folder
    folder.mkdir()
    evil = f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()
    for number in range(1, 6):
        (folder / f"data_batch_{number}").write_bytes(evil)
    (folder / "test_batch").write_bytes(evil)
    with pytest.raises(CompressError, match="cannot read data set `cifar10`"):
        load_data(DataRecipe("cifar10", root=str(tmp_path)))
    assert not mark.exists()


# Names


def test_an_unknown_name_gets_the_nearest_known_one() -> None:
    with pytest.raises(UsageError, match="unknown data set `cifar-10`") as caught:
        load_data(DataRecipe("cifar-10"))
    assert "`cifar10`" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["./pictures", "data/pictures", "~/no-such-pictures", "/no/such"])
def test_a_path_that_does_not_exist_is_called_a_folder(name: str) -> None:
    with pytest.raises(UsageError, match=f"no folder `{name}`"):
        load_data(DataRecipe(name))


def test_a_file_is_no_data_set(tmp_path: Path) -> None:
    file = tmp_path / "pictures.zip"
    file.touch()
    with pytest.raises(UsageError, match="is a file, expected a folder"):
        load_data(DataRecipe(str(file)))


def test_a_number_of_classes_that_the_set_does_not_have_is_refused(tmp_path: Path) -> None:
    _write_mnist(tmp_path)
    with pytest.raises(UsageError, match="has 10 classes, expected 7"):
        load_data(DataRecipe("mnist", root=str(tmp_path), classes=7))


def test_glyphs_take_the_recipes_size_classes_and_seed() -> None:
    data = load_data(DataRecipe("glyphs", size=16, classes=12), 3)
    assert data.shape == (3, 16, 16)
    assert len(data.classes) == 12
