"""Data from the user's own code: a factory ``package.module:factory``, called without arguments.

It returns a ``Data``, or a pair (train, test) of torch data sets. Map-style ones have ``len(it)`` and
``it[i] -> (image, label)``, the image a normalised float tensor (C, H, W); iterable ones yield the same
in their own order, with their length from ``len`` or an attribute ``samples``. The data set itself may augment at
random; torch's generator is seeded for each sample, other generators must be seeded by its author.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compressor.base.imports import load_attribute
from compressor.data.augment import DEFAULT
from compressor.data.iterables import StreamSplit, first_of, is_stream
from compressor.data.samples import Expected, SampleSplit, checked_sample, described, fetched
from compressor.data.split import Data
from compressor.errors import CompressError, UsageError

if TYPE_CHECKING:
    from compressor.recipe import DataRecipe

_EXPECTED = "expected a compressor.data.Data or a pair (train, test) of data sets"


def load_factory(wanted: DataRecipe, seed: int) -> Data:
    """The checked data of the factory that the recipe names."""
    del seed  # the factory's own code decides what is random in it
    for option in ("size", "normalise", "augment"):
        if getattr(wanted, option) not in (None, (), DEFAULT):
            raise UsageError(
                f"`{option}` has no effect on data from a factory", "set it in the factory itself"
            )
    factory = load_attribute(wanted.name, "data set")
    try:
        result = factory()
    except Exception as error:
        raise CompressError(
            f"data set `{wanted.name}` failed: {type(error).__name__}: {error}",
            "correct the factory; it is called without arguments",
        ) from error
    if isinstance(result, Data):
        return result
    if not isinstance(result, Sequence) or len(result) != 2:
        raise CompressError(f"data set `{wanted.name}` returned {described(result)}, {_EXPECTED}")
    return data_from(*result, name=wanted.name, classes=wanted.classes)


def data_from(train: Any, test: Any, *, name: str = "data", classes: int | None = None) -> Data:
    """Two data sets as ``Data``. ``classes``: their number, if the training half has no attribute ``classes``.

    An iterable without ``len`` says in an attribute ``samples`` how many one pass has.
    """
    names = _classes(train, name, classes)
    halves = [
        _checked_half(half, f"`{name}` ({half_name})", len(names))
        for half_name, half in (("train", train), ("test", test))
    ]
    shapes = [half.expected.shape for half in halves]
    if shapes[0] != shapes[1]:
        raise CompressError(
            f"data set `{name}` has images of shape {shapes[0]} in the training half and {shapes[1]} in the test half, "
            "expected one shape"
        )
    return Data(name, names, shapes[0], *halves)


def _checked_half(half: Any, where: str, classes: int) -> SampleSplit | StreamSplit:
    streamed = is_stream(half)
    if not streamed and not (hasattr(half, "__len__") and hasattr(half, "__getitem__")):
        raise CompressError(
            f"{where} is {described(half)}, expected a map-style data set, with len() and an index, "
            "or an iterable that can be started again for every pass"
        )
    length = _length(half, where)
    if length == 0:
        raise CompressError(f"{where} is empty")
    sample = first_of(half, where, length) if streamed else fetched(half, 0, where)
    channels, height, width = checked_sample(sample, 0, where)[0].shape
    expected = Expected(where, (channels, height, width), classes)
    return StreamSplit(half, length, expected) if streamed else SampleSplit(half, expected)


def _length(half: Any, where: str) -> int:
    try:
        return len(half)
    except TypeError:  # torch's iterable data sets have no len(), or one that fails
        length = getattr(half, "samples", None)
        if type(length) is not int or length < 0:
            raise CompressError(
                f"{where} has no length",
                "give it len(), or an attribute `samples` with the number of samples in one pass",
            ) from None
        return length


def _classes(train: Any, name: str, classes: int | None) -> tuple[str, ...]:
    """Class names from the attribute ``classes``, as in torchvision's data sets, or else numbers."""
    named = getattr(train, "classes", None)
    if isinstance(named, Sequence) and named:
        return tuple(str(label) for label in named)
    if classes is None:
        raise UsageError(
            f"the number of classes of data set `{name}` is unknown",
            "set data.classes (run: --set data.classes=N, other commands: --classes N), or give the training half an "
            "attribute `classes`",
        )
    return tuple(str(number) for number in range(classes))
