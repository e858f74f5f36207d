"""Iterable data sets: begun anew for every pass, told which, and held to the number they promise."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from compressor.data import Data, load_data
from compressor.data.factory import data_from
from compressor.errors import CompressError
from compressor.recipe import DataRecipe

Sample = tuple[Tensor, int]


def _image(number: int) -> Tensor:
    return torch.full((1, 2, 2), float(number))


class Numbers:
    """So many images, each showing its number."""

    classes = ("even", "odd")

    def __init__(self, length: int = 10) -> None:
        self.length = length

    def __iter__(self) -> Iterator[Sample]:
        for number in range(self.length):
            yield _image(number), number % 2


class Counted(Numbers):
    def __len__(self) -> int:
        return 10


class Ordered(Counted):
    """In an order that follows the epoch."""

    told: list[int] = []  # noqa: RUF012

    def set_epoch(self, number: int) -> None:
        self.told.append(number)

    def __iter__(self) -> Iterator[Sample]:
        random = torch.Generator().manual_seed(self.told[-1])
        for number in torch.randperm(10, generator=random).tolist():
            yield _image(number), number % 2


class Torchs(IterableDataset):  # type: ignore[type-arg]
    """As torch's users write them: with an index that only fails."""

    classes = ("even", "odd")

    def __iter__(self) -> Iterator[Sample]:
        return iter(Numbers())


class Failing(Counted):
    def __iter__(self) -> Iterator[Sample]:
        yield _image(0), 0
        yield _image(1), 1
        raise ConnectionError("the store is closed")


class Endless(Numbers):
    def __iter__(self) -> Iterator[Sample]:
        return ((_image(number), number % 2) for number in count())


def numbers() -> tuple[Any, Any]:
    return of_samples(Numbers(), 10), of_samples(Numbers(6), 6)


def of_samples(half: Any, samples: object) -> Any:
    half.samples = samples
    return half


def once() -> tuple[Any, Any]:
    return iter(Numbers()), Counted()


def _from(name: str, **options: Any) -> Data:
    return load_data(DataRecipe(f"{__name__}:{name}", **options))


def _shown(data: Data, size: int = 4, **options: Any) -> list[list[int]]:
    return [batch.images[:, 0, 0, 0].int().tolist() for batch in data.train.batches(size, **options)]


def test_an_iterable_with_a_length_needs_nothing_more() -> None:
    data = data_from(Counted(), Counted())
    assert (len(data.train), data.shape, data.train.fixed) == (10, (1, 2, 2), False)
    assert _shown(data) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert _shown(data) == _shown(data)
    assert _shown(data, shuffle=1) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_an_attribute_may_say_how_many() -> None:
    data = _from("numbers")
    assert (len(data.train), len(data.test)) == (10, 6)
    assert len(list(data.test.batches(4))) == 2


@pytest.mark.parametrize("samples", [None, "ten", -1, True, [1, 2]])
def test_a_half_of_unknown_length_says_what_is_missing(samples: object) -> None:
    with pytest.raises(CompressError, match=r"\(train\) has no length") as caught:
        data_from(of_samples(Numbers(), samples), Counted())
    assert "`samples`" in str(caught.value.hint)
    with pytest.raises(CompressError, match=r"\(test\) has no length"):
        data_from(Counted(), Torchs())


def test_torchs_iterable_data_sets_are_iterables() -> None:
    assert _shown(data_from(of_samples(Torchs(), 10), Counted()))[0] == [0, 1, 2, 3]


def test_the_half_is_told_the_shuffle_number_before_each_pass() -> None:
    data = data_from(Ordered(), Counted())
    Ordered.told.clear()
    first, again, other, unshuffled = (_shown(data, 5, shuffle=number) for number in (7, 7, 8, None))
    assert Ordered.told == [7, 7, 8, 0]
    assert first == again
    assert first not in (other, unshuffled)


def test_an_abandoned_pass_does_not_disturb_the_next() -> None:
    data = data_from(Counted(), Counted())
    assert next(data.train.batches(4)).index.tolist() == [0, 1, 2, 3]
    assert _shown(data)[0] == [0, 1, 2, 3]


@pytest.mark.parametrize("shuffle", [None, 1])
@pytest.mark.parametrize("promised", [9, 10, 11, 12])
def test_more_or_fewer_than_promised_is_an_error(promised: int, shuffle: int | None) -> None:
    data = data_from(of_samples(Numbers(), promised), Counted())
    if promised == 10:
        list(data.train.batches(3, shuffle=shuffle))
        return
    said = "continues after 9 samples" if promised < 10 else f"ended after 10 samples, expected {promised}"
    with pytest.raises(CompressError, match=rf"\(train\) {said}") as caught:
        list(data.train.batches(3, shuffle=shuffle))
    assert "`samples`" in str(caught.value.hint)


def test_a_stream_without_an_end_is_found_out() -> None:
    data = data_from(of_samples(Endless(), 8), Counted())
    with pytest.raises(CompressError, match="continues after 8 samples"):
        list(data.train.batches(4))


def test_what_can_be_read_only_once_is_refused() -> None:
    with pytest.raises(
        CompressError, match=r"\(train\) is a generator, .* an iterable that can be started again"
    ):
        _from("once", classes=2)


def test_an_error_inside_names_the_sample() -> None:
    data = data_from(Failing(), Counted())
    with pytest.raises(CompressError, match=r"sample 2 of .* failed: ConnectionError: the store is closed"):
        list(data.train.batches(2))


def test_an_empty_stream_is_an_error() -> None:
    with pytest.raises(CompressError, match="ended after 0 samples, expected 5"):
        data_from(of_samples(Numbers(0), 5), Counted())
    with pytest.raises(CompressError, match=r"\(train\) is empty"):
        data_from(of_samples(Numbers(0), 0), Counted())
