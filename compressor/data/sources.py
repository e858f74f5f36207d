"""Load a data set by its name.

A name is one from the table ``SOURCES``, a folder of class folders, shards (tar files, by a pattern or in
a folder), or ``package.module:factory``. The result is always a ``Data``. Not supported: data that is not
for classification, and sets that do not fit on this machine's disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.data.augment import check_augment
from compressor.data.factory import load_factory
from compressor.data.folders import load_folder, with_unlabelled
from compressor.data.glyphs import load_glyphs
from compressor.data.shards import has_shards, load_shards, names_shards
from compressor.data.split import Data
from compressor.data.two_views import TwoViews
from compressor.errors import UsageError, unknown_name

if TYPE_CHECKING:
    # For annotations only: importing a recipe at run time must not need torch, which this package imports.
    from compressor.recipe import DataRecipe

Source = Callable[["DataRecipe", int], Data]


def load_data(wanted: DataRecipe, seed: int = 0) -> Data:
    """Load the data set that a recipe names. ``seed`` sets what is rendered, and what is held out for the test."""
    _check_numbers(wanted)
    check_augment(wanted.augment)
    if wanted.teacher_augment:
        check_augment(wanted.teacher_augment)
    source = _source(wanted.name)
    if wanted.test and source is not load_shards:
        raise UsageError(f"`test` has no effect on data `{wanted.name}`", "remove `data.test`")
    data = source(wanted, seed)
    if wanted.classes is not None and len(data.classes) != wanted.classes:
        raise UsageError(
            f"data set `{wanted.name}` has {len(data.classes)} classes, expected {wanted.classes} (data.classes)",
            "leave out data.classes, or `--classes` of compress evaluate and export: this data set defines its own",
        )
    data = with_unlabelled(data, wanted) if wanted.unlabelled else data
    return _with_two_views(data, wanted, seed) if wanted.teacher_augment else data


def _with_two_views(data: Data, wanted: DataRecipe, seed: int) -> Data:
    """The same data, with a second view of the training half for the teacher, by ``teacher_augment``."""
    teacher_data = load_data(replace(wanted, augment=wanted.teacher_augment, teacher_augment=""), seed)
    return replace(data, train=TwoViews(data.train, teacher_data.train))


def _check_numbers(wanted: DataRecipe) -> None:
    for name, value, least in (("size", wanted.size, 1), ("classes", wanted.classes, 2)):
        if value is not None and value < least:
            raise UsageError(f"data `{name}` is {value}, expected at least {least}")


def _source(name: str) -> Source:
    if name in SOURCES:
        return SOURCES[name]
    path = Path(name).expanduser()
    if path.is_dir():
        return load_shards if has_shards(path) else load_folder
    if names_shards(name):
        return load_shards
    if path.exists():
        raise UsageError(
            f"data `{name}` is a file, expected a folder of class folders, or shards that end in .tar"
        )
    if any(mark in name for mark in ("/", os.sep)) or name.startswith((".", "~")):
        raise UsageError(
            f"no folder `{name}`",
            "use a folder that exists, package.module:factory, or one of " + ", ".join(SOURCES),
        )
    if ":" in name:
        return load_factory
    raise unknown_name("data set", name, SOURCES)


def _glyphs(wanted: DataRecipe, seed: int) -> Data:
    return load_glyphs(
        classes=wanted.classes,
        size=wanted.size,
        normalise=wanted.normalise,
        augment=wanted.augment,
        seed=seed,
    )


def _published(name: str, wanted: DataRecipe, seed: int) -> Data:
    # Imported here: torchvision takes a second to import, which is needed only for its data sets.
    from compressor.data.published import PUBLISHED, load_published

    return load_published(PUBLISHED[name], wanted)


SOURCES: dict[str, Source] = {
    "glyphs": _glyphs,
    **{name: partial(_published, name) for name in ("cifar10", "cifar100", "mnist", "fashion-mnist")},
}
