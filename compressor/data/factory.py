"""Data that the user's own code provides: ``package.module:factory``, called without arguments.

It returns a ``Data``, or a pair (train, test) of torch data sets. Map-style ones have ``len(it)`` and
``it[i] -> (image, label)``, the image a float tensor (C, H, W), normalised already; iterable ones give
the same in an order of their own, and say by ``len`` or the recipe how many. Pictures may be augmented
at random by the data set itself; torch's generator is seeded for each of them, other generators are
the author's business.
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

_EXPECTED = "expected a compressor.data.Data, or a pair (train, test) of data sets"


def load_factory(wanted: DataRecipe, seed: int) -> Data:
    """What the factory gives, checked."""
    del seed  # the factory's own code decides what is random in it
    for option in ("size", "mean", "std", "augment"):
        if getattr(wanted, option) not in (None, (), DEFAULT):
            raise UsageError(f"`{option}` does not reach data from a factory", "set it in the factory itself")
    factory = load_attribute(wanted.name, "data set")
    try:
        given = factory()
    except Exception as error:
        raise CompressError(
            f"data set `{wanted.name}` failed: {type(error).__name__}: {error}",
            "it is called without arguments",
        ) from error
    if isinstance(given, Data):
        return given
    if not isinstance(given, Sequence) or len(given) != 2:
        raise CompressError(f"data set `{wanted.name}` gave {described(given)}, {_EXPECTED}")
    return data_from(*given, name=wanted.name, classes=wanted.classes, samples=wanted.samples)


def data_from(
    train: Any, test: Any, *, name: str = "data", classes: int | None = None, samples: Sequence[int] = ()
) -> Data:
    """Two data sets as ``Data``; ``classes`` if the training half has no attribute of that name.

    ``samples`` says how many the halves give in one pass, train and test, where they have no ``len``.
    """
    names = _classes(train, name, classes)
    promised = [*samples, None, None]
    halves = [
        _checked_half(half, f"`{name}` ({which})", len(names), length)
        for (which, half), length in zip((("train", train), ("test", test)), promised, strict=False)
    ]
    shapes = [half.expected.shape for half in halves]
    if shapes[0] != shapes[1]:
        raise CompressError(
            f"data set `{name}` has images of shape {shapes[0]} to train on, {shapes[1]} to test"
        )
    return Data(name, names, shapes[0], *halves)


def _checked_half(half: Any, where: str, classes: int, promised: int | None) -> SampleSplit | StreamSplit:
    streamed = is_stream(half)
    if not streamed and not (hasattr(half, "__len__") and hasattr(half, "__getitem__")):
        raise CompressError(
            f"{where} is {described(half)}, expected len() and an index: a map-style data set; "
            "or an iterable that every pass can begin anew"
        )
    length = _length(half, where, promised)
    if length == 0:
        raise CompressError(f"{where} is empty")
    sample = first_of(half, where, length) if streamed else fetched(half, 0, where)
    channels, height, width = checked_sample(sample, 0, where)[0].shape
    expected = Expected(where, (channels, height, width), classes)
    return StreamSplit(half, length, expected) if streamed else SampleSplit(half, expected)


def _length(half: Any, where: str, promised: int | None) -> int:
    try:
        return len(half)
    except TypeError:  # torch's iterable data sets have no len(), or one that fails
        if promised is None:
            raise UsageError(
                f"{where} does not say how many samples it gives",
                "`data.samples = [TRAIN, TEST]` in the recipe, or give it len()",
            ) from None
        return promised


def _classes(train: Any, name: str, classes: int | None) -> tuple[str, ...]:
    """The names that the data set gives, as torchvision's do; else numbers."""
    named = getattr(train, "classes", None)
    if isinstance(named, Sequence) and named:
        return tuple(str(each) for each in named)
    if classes is None:
        raise UsageError(
            f"data set `{name}` does not say how many classes it has",
            "--classes N, or give its training half an attribute `classes`",
        )
    return tuple(str(number) for number in range(classes))
