"""Data from the user's own code: what a factory may return, and what is said of anything else."""

from typing import Any

import pytest
import torch
from torch import Tensor

from compressor.data import Data, load_data
from compressor.data.glyphs import load_glyphs
from compressor.errors import CompressError, UsageError
from compressor.recipe import DataRecipe


class Squares:
    """Six images in two classes, as a torch data set would give them."""

    classes = ("dark", "light")

    def __init__(self, *, noisy: bool = False) -> None:
        self.noisy = noisy

    def __len__(self) -> int:
        return 6

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        image = torch.full((1, 4, 4), float(number % 2))
        return (image + torch.rand(()) if self.noisy else image), number % 2


class Nameless:
    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return torch.zeros(1, 4, 4), number


class Broken(Squares):
    def __init__(self, sample: object) -> None:
        super().__init__()
        self.sample = sample

    def __getitem__(self, number: int) -> Any:
        if isinstance(self.sample, Exception):
            raise self.sample
        return self.sample


def squares() -> tuple[Squares, Squares]:
    return Squares(), Squares()


def noisy() -> tuple[Squares, Squares]:
    return Squares(noisy=True), Squares(noisy=True)


def nameless() -> tuple[Nameless, Nameless]:
    return Nameless(), Nameless()


def whole() -> Data:
    return load_glyphs(classes=3, train=9, test=3)


def number() -> int:
    return 5


def stream() -> tuple[Any, Any]:
    return iter([]), iter([])


def raising() -> None:
    raise RuntimeError("the disk is full")


def unscaled() -> tuple[Broken, Broken]:
    return Broken((torch.zeros(3, 4, 4, dtype=torch.uint8), 0)), Broken((torch.zeros(3, 4, 4), 0))


def wordy() -> tuple[Broken, Broken]:
    return Broken((torch.zeros(3, 4, 4), "cat")), Broken((torch.zeros(3, 4, 4), "cat"))


def unreadable() -> tuple[Broken, Broken]:
    return Broken(OSError("no such picture")), Squares()  # type: ignore[return-value]


def mislabelled() -> tuple[Broken, Broken]:
    return Broken((torch.zeros(1, 4, 4), 2)), Broken((torch.zeros(1, 4, 4), 0))


def _from(name: str, **options: Any) -> Data:
    return load_data(DataRecipe(f"{__name__}:{name}", **options))


def test_a_factory_may_return_the_finished_data() -> None:
    assert _from("whole").classes == ("A", "B", "D")


def test_a_factory_may_return_two_torch_data_sets() -> None:
    data = _from("squares")
    assert data.shape == (1, 4, 4)
    assert data.classes == ("dark", "light")
    assert not data.train.fixed
    batches = list(data.test.batches(4))
    assert [batch.labels.tolist() for batch in batches] == [[0, 1, 0, 1], [0, 1]]
    assert batches[1].index.tolist() == [4, 5]
    assert [len(batch.index) for batch in data.train.batches(4, shuffle=1)] == [4]


def test_random_numbers_inside_a_data_set_repeat_with_the_shuffle_number() -> None:
    data = _from("noisy")
    before = torch.get_rng_state()
    first, again, other = (next(data.train.batches(6, shuffle=number)).images for number in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first.flatten().sort().values, other.flatten().sort().values)
    assert torch.equal(before, torch.get_rng_state())


def test_a_data_set_without_names_needs_the_number_of_classes() -> None:
    with pytest.raises(UsageError, match="the number of classes of data set") as caught:
        _from("nameless")
    assert "--set data.classes=N" in str(caught.value.hint)
    assert _from("nameless", classes=4).classes == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("number", "returned a int, expected a compressor.data.Data or a pair"),
        ("stream", r"\(train\) is a list_iterator, expected a map-style data set, with len"),
        ("raising", "failed: RuntimeError: the disk is full"),
        ("unscaled", r"is a uint8 tensor of shape \(3, 4, 4\), expected a float tensor"),
        ("wordy", "label of sample 0 .* is a str, expected an integer"),
        ("unreadable", r"sample 0 of .*\(train\) failed: OSError: no such picture"),
    ],
)
def test_a_factory_that_gives_something_else_is_named(factory: str, message: str) -> None:
    with pytest.raises(CompressError, match=message):
        _from(factory, classes=2)


def test_a_label_outside_the_classes_is_found_when_the_sample_is_read() -> None:
    data = _from("mislabelled")
    with pytest.raises(CompressError, match=r"sample 0 .* has label 2, expected 0 to 1"):
        next(data.train.batches(2))


def test_a_missing_module_and_a_missing_name_are_told_apart() -> None:
    with pytest.raises(UsageError, match="no module named `no_such_module`"):
        load_data(DataRecipe("no_such_module:squares"))
    with pytest.raises(UsageError, match=r"unknown data set `.*:sqares`") as caught:
        _from("sqares")
    assert ":squares`" in str(caught.value.hint)


def test_a_size_that_cannot_reach_a_factory_is_refused() -> None:
    with pytest.raises(UsageError, match="`size` has no effect"):
        _from("squares", size=32)
