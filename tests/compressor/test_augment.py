"""Policies of augmentation: each sample is varied by its own numbers, whoever asks and however often."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from compressor.data import Split, load_data, pictures
from compressor.data.augment import POLICIES, policy_named, varied, varied_pixels
from compressor.data.glyphs import load_glyphs
from compressor.errors import UsageError
from compressor.recipe import DataRecipe
from tests.compressor.pictures import speckled, write_folders, write_shards

named = pytest.mark.parametrize("augment", POLICIES)
WHOLE = {"normalise": ((0.0,) * 3, (1.0,) * 3)}


def _seen(split: Split, shuffle: int | None, size: int = 5) -> dict[int, Tensor]:
    batches = split.batches(size, shuffle=shuffle)
    return {int(i): image for b in batches for i, image in zip(b.index, b.images, strict=True)}


def _equal(one: dict[int, Tensor], other: dict[int, Tensor]) -> list[bool]:
    return [torch.equal(one[number], other[number]) for number in sorted(one.keys() & other.keys())]


@named
@pytest.mark.parametrize("channels", [1, 3])
def test_a_sample_is_varied_by_its_own_numbers_alone(augment: str, channels: int) -> None:
    policy = policy_named(augment)
    assert policy is not None
    image = torch.randint(
        256, (channels, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    torch.manual_seed(0)
    first = [varied_pixels(policy, image, Random(number)) for number in range(20)]
    torch.manual_seed(1)
    again = [varied_pixels(policy, image, Random(number)) for number in range(20)]
    assert all(each.shape == image.shape for each in first)
    assert all(map(torch.equal, first, again))
    assert len({each.numpy().tobytes() for each in first}) > 5


@named
def test_many_threads_vary_as_one_does_while_the_training_draws(augment: str) -> None:
    policy = policy_named(augment)
    assert policy is not None
    image = speckled(1)

    def one(number: int) -> bytes:
        return varied(policy, image, Random(number)).tobytes()

    alone = [one(number) for number in range(200)]
    torch.manual_seed(5)
    quiet = [torch.rand(()).item() for _ in range(200)]
    torch.manual_seed(5)
    with ThreadPoolExecutor(4) as pool:
        coming = pool.map(one, range(200))
        drawn = [torch.rand(()).item() for _ in range(200)]
        assert list(coming) == alone
    assert drawn == quiet


@named
def test_the_policy_is_torchvisions_own(augment: str) -> None:
    """Seeded alike, the transform draws the same from its own generator as from the global one."""
    policy, image, random = policy_named(augment), speckled(2), Random(3)
    assert policy is not None
    torch.manual_seed(Random(3).getrandbits(63))
    expected = getattr(v2, POLICIES[augment])()(image)
    assert varied(policy, image, random).tobytes() == expected.tobytes()


def _source(kind: str, tmp_path: Path, **options: Any) -> Split:
    folder = write_folders(tmp_path) if kind == "folder" else write_shards(tmp_path)
    return load_data(DataRecipe(str(folder), size=16, **WHOLE, **options)).train


@named
@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_pictures_are_varied_alike_in_any_batch_and_by_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, augment: str
) -> None:
    monkeypatch.setattr(pictures, "decoding_threads", lambda: 1)
    one = _seen(_source(kind, tmp_path, augment=augment), 4)
    monkeypatch.setattr(pictures, "decoding_threads", lambda: 5)
    monkeypatch.setattr(pictures, "AHEAD", 0)
    many = _seen(_source(kind, tmp_path, augment=augment), 4, size=7)
    assert all(_equal(one, many))
    other = _seen(_source(kind, tmp_path, augment=augment), 5)
    assert not any(_equal(one, other))


@named
def test_a_policy_comes_on_top_of_what_the_source_does(tmp_path: Path, augment: str) -> None:
    usual, more = (_seen(_source("folder", tmp_path, augment=name), 4) for name in ("default", augment))
    equal = _equal(usual, more)
    assert not all(equal)


def test_glyphs_are_varied_for_training_alone() -> None:
    plain, train = (
        load_glyphs(classes=2, train=40, test=1, size=12, augment=augment).train
        for augment in ("default", "randaugment")
    )
    assert plain.fixed
    assert not train.fixed
    assert all(_equal(_seen(train, None), _seen(plain, None)))
    assert not all(_equal(_seen(train, 1), _seen(plain, 1)))
    assert all(_equal(_seen(train, 1, 20), _seen(train, 1, 8)))


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_without_augmentation_training_pictures_are_the_same_every_time(tmp_path: Path, kind: str) -> None:
    train = _source(kind, tmp_path, augment="none")
    assert train.fixed
    assert all(_equal(_seen(train, 1), _seen(train, 2)))
    assert all(_equal(_seen(train, 1), _seen(train, None)))


def test_an_unknown_name_gets_the_nearest_known_one() -> None:
    with pytest.raises(UsageError, match="unknown augment `rand-augment`") as caught:
        load_data(DataRecipe("glyphs", augment="rand-augment"))
    assert "`randaugment`" in str(caught.value.hint)


@pytest.mark.parametrize("augment", ["none", *POLICIES])
def test_a_factorys_floats_cannot_be_varied(augment: str) -> None:
    with pytest.raises(UsageError, match="`augment` has no effect on data from a factory"):
        load_data(DataRecipe("tests.compressor.test_data_factory:squares", augment=augment))
