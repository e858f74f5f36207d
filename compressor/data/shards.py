"""Pictures in shards: tar files of some thousand samples each, on a disk or at web addresses.

Named by a pattern (``photos-{0000..0012}.tar``, ``photos-*.tar``, ``https://host/photos-{00..99}.tar``)
or by the folder that contains them, with or without ``train/`` and ``val/`` (or ``test/``). Each shard is
indexed once; then any sample can be read directly. So that the disk reads mostly in sequence, a training
does not use a fully random order: shards are mixed, and then the samples within a window of a few shards.

The test half is another pattern, or ``val/``; without either one fifth of the shards, or of the samples if
there is one shard, is held out by the seed. Not implemented: reading from the web without a copy on disk.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from glob import glob
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor

from compressor.data.download import downloaded, is_address
from compressor.data.pictures import SIZE, TEST_SHARE, Look, PictureSplit, decoding_threads, training_look
from compressor.data.scaling import IMAGENET, chosen_scaling
from compressor.data.shard_index import ShardIndex, index_of
from compressor.data.split import Data
from compressor.data.unreadable import Damage, limit_of
from compressor.errors import CompressError, UsageError

if TYPE_CHECKING:
    from compressor.recipe import DataRecipe

WINDOW = 8
"""Number of shards whose samples are mixed with one another."""

_ENDING = ".tar"
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Shard:
    """A shard: the name that the user gave, its file, and its index."""

    name: str
    file: Path
    index: ShardIndex


Held = list[tuple[Shard, Tensor]]
"""Shards, each with the positions of the selected samples in its index."""


class Members:
    """The samples of several shards, numbered shard after shard."""

    def __init__(self, held: Held) -> None:
        counts = torch.tensor([len(places) for _, places in held], dtype=torch.int64)
        self._shards = [(shard.name, shard.file) for shard, _ in held]
        self._ends = [0, *counts.cumsum(0).tolist()]
        self._shard = torch.arange(len(held)).repeat_interleave(counts)
        self._keys = tuple(shard.index.keys[place] for shard, places in held for place in places.tolist())
        self._offset, self._size, self.labels = (
            torch.cat([_tensor(getattr(shard.index, column))[places] for shard, places in held])
            for column in ("offsets", "sizes", "labels")
        )

    def name(self, number: int) -> str:
        """Name of the shard, and key of the sample in it."""
        return f"{self._shards[int(self._shard[number])][0]}/{self._keys[number]}"

    def file(self, number: int) -> BytesIO:
        """The bytes of the picture, as a file."""
        size = int(self._size[number])
        descriptor = os.open(self._shards[int(self._shard[number])][1], os.O_RDONLY)
        try:
            content = os.pread(descriptor, size, int(self._offset[number]))
        finally:
            os.close(descriptor)
        if len(content) < size:
            raise OSError(f"the shard ends after {len(content):,} of its {size:,} bytes")
        return BytesIO(content)

    def mixed(self, shuffle: int) -> Tensor:
        """All sample numbers in random order: shards are mixed, then the samples within ``WINDOW`` shards."""
        random = torch.Generator().manual_seed(shuffle)
        ranges = [torch.arange(first, end) for first, end in pairwise(self._ends)]
        order = torch.randperm(len(ranges), generator=random).tolist()
        mixed = []
        for first in range(0, len(order), WINDOW):
            numbers = torch.cat([ranges[place] for place in order[first : first + WINDOW]])
            mixed.append(numbers[torch.randperm(len(numbers), generator=random)])
        return torch.cat(mixed)


def has_shards(folder: Path) -> bool:
    """True if the folder, or its ``train/``, contains shards."""
    return any(next(place.glob(f"*{_ENDING}"), None) for place in (folder, folder / "train"))


def names_shards(name: str) -> bool:
    """True if ``name`` is a pattern for shards."""
    return is_address(name) or name.endswith(_ENDING)


def load_shards(wanted: DataRecipe, seed: int) -> Data:
    """Load the data set in shards."""
    named, test_named = _halves(wanted)
    both = sorted(set(named) & set(test_named))
    if both:
        raise UsageError(
            f"shard `{both[0]}` is in both halves", "name different shards for training and for the test"
        )
    with ThreadPoolExecutor(decoding_threads()) as pool:
        shards, test_shards = (list(pool.map(_opened, names)) for names in (named, test_named))
    train, test = _divided(shards, test_shards, seed)
    size = wanted.size or SIZE
    scaling = chosen_scaling(IMAGENET, wanted.normalise)
    halves = [
        _half(held, look, replacing)
        for held, look, replacing in (
            (train, training_look(size, scaling, wanted.augment), True),
            (test, Look(size, scaling), False),
        )
    ]
    classes = _classes(max(int(half.labels.max()) for half in halves) + 1, wanted)
    return Data(Path(wanted.name).name, classes, (3, size, size), *halves)


def _half(held: Held, look: Look, replacing: bool) -> PictureSplit:
    members = Members(held)
    damage = Damage(limit_of(len(members.labels)))
    for shard, _ in held:
        for key, reason in shard.index.faults:
            damage.add(f"{shard.name}/{key}" if key else shard.name, reason)
    if not len(members.labels):
        raise CompressError(
            f"no samples in {_listed([shard.name for shard, _ in held])}{_first(damage)}",
            "each sample needs KEY.jpg (jpeg, png, webp, ppm) and KEY.cls (txt, json) with its label",
        )
    return PictureSplit(members, members.labels, look, damage, replacing, mix=members.mixed)


def _divided(shards: list[Shard], test: list[Shard], seed: int) -> tuple[Held, Held]:
    """Training and test samples; without test shards, a part chosen by the seed is held out for the test."""
    random = Random(f"{seed}/shards")
    if not test and len(shards) > 1:
        kept = set(random.sample(range(len(shards)), max(1, round(len(shards) * TEST_SHARE))))
        test = [shard for place, shard in enumerate(shards) if place in kept]
        shards = [shard for place, shard in enumerate(shards) if place not in kept]
    if test:
        return _all(shards), _all(test)
    (shard,) = shards
    length = len(shard.index.keys)
    if length < 2:
        raise CompressError(
            f"shard `{shard.name}` has {length} samples, expected at least 2: one to train on, one for the test",
            "; ".join(f"{key or 'the shard'}: {reason}" for key, reason in shard.index.faults[:3]) or None,
        )
    held_out = torch.zeros(length, dtype=torch.bool)
    held_out[random.sample(range(length), max(1, round(length * TEST_SHARE)))] = True
    # The faults stay with the training half only, so that each is counted once.
    faultless = replace(shard, index=replace(shard.index, faults=()))
    return [(shard, (~held_out).nonzero().flatten())], [(faultless, held_out.nonzero().flatten())]


def _all(shards: Iterable[Shard]) -> Held:
    return [(shard, torch.arange(len(shard.index.keys))) for shard in shards]


def _tensor(column: array[int]) -> Tensor:
    return torch.from_numpy(np.array(column, dtype=np.int64))


def _classes(count: int, wanted: DataRecipe) -> tuple[str, ...]:
    if wanted.classes is not None and count > wanted.classes:
        raise CompressError(
            f"`{wanted.name}` has label {count - 1}, expected 0 to {wanted.classes - 1} of {wanted.classes} classes"
        )
    if count < 2:
        raise CompressError(f"`{wanted.name}` has only label 0, expected at least 2 classes")
    return tuple(str(number) for number in range(wanted.classes or count))


def _opened(name: str) -> Shard:
    file = downloaded(name) if is_address(name) else Path(name)
    return Shard(name, file, index_of(file))


def _halves(wanted: DataRecipe) -> tuple[list[str], list[str]]:
    """Names of the shards of each half; none for the second if it must be held out from the first."""
    folder = Path(wanted.name).expanduser()
    inside = "train" if folder.is_dir() and any((folder / "train").glob(f"*{_ENDING}")) else ""
    train = _named(str(folder / inside) if inside else wanted.name)
    if wanted.test:
        return train, _named(wanted.test)
    places = (folder / name for name in ("val", "test")) if inside else ()
    held_out = next((place for place in places if any(place.glob(f"*{_ENDING}"))), None)
    return train, _named(str(held_out)) if held_out else []


def _named(pattern: str) -> list[str]:
    """Names of the shards for a pattern or a folder, in the order of the pattern, else sorted."""
    if is_address(pattern):
        names = list(_expanded(pattern))
        if not all(urlsplit(name).path.endswith(_ENDING) for name in names):
            raise UsageError(
                f"`{pattern}` does not end in {_ENDING}", "use shards that are uncompressed tar files"
            )
        return names
    path = Path(pattern).expanduser()
    if path.is_dir():
        pattern = str(path / f"*{_ENDING}")
    names = []
    for name in _expanded(str(Path(pattern).expanduser())):
        files = [name] if Path(name).is_file() else sorted(glob(name))
        if not files:
            raise UsageError(f"no shard `{name}`", f"expected tar files for the pattern `{pattern}`")
        names += files
    return names


def _expanded(pattern: str) -> Iterator[str]:
    """Expand ranges in a pattern: ``a-{08..11}`` is a-08, a-09, a-10, a-11."""
    match = _RANGE.search(pattern)
    if match is None:
        yield pattern
        return
    first, last = match.groups()
    if int(last) < int(first):
        raise UsageError(f"range `{match[0]}` in `{pattern}` runs backwards", f"write {{{last}..{first}}}")
    for number in range(int(first), int(last) + 1):
        digits = str(number).zfill(len(first))
        yield from _expanded(pattern[: match.start()] + digits + pattern[match.end() :])


def _listed(names: Sequence[str]) -> str:
    return f"`{names[0]}`" + (f" and {len(names) - 1} more shards" if len(names) > 1 else "")


def _first(damage: Damage) -> str:
    return f" ({damage.found[0]})" if damage.found else ""
