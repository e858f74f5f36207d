"""Where in a shard each sample lies: read once, and remembered.

A shard is a tar file in WebDataset's manner: members with a common name up to the first dot are one
sample, ``key.jpg`` its picture and ``key.cls`` (or ``key.txt``, or ``label`` in ``key.json``) its
label. To find them all headers have to be walked through, two minutes for a million samples; the result is kept
in the cache by path, size and time of change. What is damaged is noted, and what can be read is used.
Left out: compressed tar files, into which nothing can jump.
"""

from __future__ import annotations

import json
import os
import tarfile
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressor.base.cache import key_of, read_value, write_value

PICTURES = ("jpg", "jpeg", "png", "webp", "ppm")
LABELS = ("cls", "txt", "json")

_KIND = "shards"
_BLOCK = 512
_LONGEST_LABEL = 1 << 20

Place = tuple[int, int]
"""Offset and size, in bytes."""


def _column(numbers: Iterable[int] = ()) -> array[int]:
    return array("q", numbers)


@dataclass(frozen=True)
class ShardIndex:
    """The samples of a shard: their keys, where their pictures lie, their labels.

    Columns of numbers, as a data set may have millions of samples. ``faults`` are what is wrong with the
    shard, each by a sample's key (empty: the shard itself) and why.
    """

    keys: tuple[str, ...] = ()
    offsets: array[int] = field(default_factory=_column)
    sizes: array[int] = field(default_factory=_column)
    labels: array[int] = field(default_factory=_column)
    faults: tuple[tuple[str, str], ...] = ()


def index_of(file: Path) -> ShardIndex:
    """The index of a shard, from the cache or read now."""
    try:
        about = file.stat()
    except OSError as error:
        return _unreadable(error)
    key = key_of({"file": str(file.resolve()), "size": about.st_size, "changed": about.st_mtime_ns})
    known = _from_value(read_value(_KIND, key))
    if known is not None:
        return known
    try:
        found = _walked(file)
    except OSError as error:  # perhaps tomorrow: not remembered
        return _unreadable(error)
    write_value(_KIND, key, _to_value(found))
    return found


def _unreadable(error: OSError) -> ShardIndex:
    return ShardIndex(faults=(("", error.strerror or str(error)),))


def _walked(file: Path) -> ShardIndex:
    with file.open("rb") as opened:
        groups, damage = _groups(file, opened.fileno())
        rows: list[tuple[str, int, int, int]] = []
        faults = [("", damage)] if damage else []
        for key, places in groups.items():
            picture = next((places[ending] for ending in PICTURES if ending in places), None)
            if picture is None or (damage and places.keys().isdisjoint(LABELS)):
                continue  # the last sample of a shard that breaks off has lost its label
            try:
                rows.append((key, *picture, _label(places, opened.fileno())))
            except ValueError as error:
                faults.append((key, str(error)))
    keys, offsets, sizes, labels = zip(*rows, strict=True) if rows else ((), (), (), ())
    return ShardIndex(keys, _column(offsets), _column(sizes), _column(labels), tuple(faults))


def _groups(file: Path, descriptor: int) -> tuple[dict[str, dict[str, Place]], str | None]:
    """The places of each sample's members by their endings; and what ended the walk before the end."""
    groups: dict[str, dict[str, Place]] = {}
    length = os.fstat(descriptor).st_size
    try:
        with tarfile.open(file, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                folder, slash, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                whole = member.offset_data + member.size <= length
                if member.isreg() and not member.issparse() and stem and ending and whole:
                    place = (member.offset_data, member.size)
                    groups.setdefault(folder + slash + stem, {})[ending.lower()] = place
            end = tar.offset
    except (tarfile.TarError, EOFError, ValueError) as error:
        return groups, str(error)
    # The walk ends without an error at anything that is no header; right is a block of zeros, or the end.
    after = os.pread(descriptor, _BLOCK, end)
    return groups, f"no tar file after byte {end:,}" if after.strip(b"\0") else None


def _label(places: Mapping[str, Place], descriptor: int) -> int:
    ending = next((ending for ending in LABELS if ending in places), None)
    if ending is None:
        raise ValueError("no label: expected .cls, .txt or .json beside it")
    offset, size = places[ending]
    if size > _LONGEST_LABEL:
        raise ValueError(f"its .{ending} has {size:,} bytes, expected a label")
    text = os.pread(descriptor, size, offset).decode(errors="replace").strip()
    label: Any = text
    if ending == "json":
        try:
            told = json.loads(text)
        except ValueError as error:
            raise ValueError(f"its .json is no JSON: {error}") from None
        label = told.get("label") if isinstance(told, dict) else None
    try:
        number = int(label) if isinstance(label, str) or type(label) is int else -1
    except ValueError:
        number = -1
    if number < 0:
        raise ValueError(f"its .{ending} has label {str(label)[:40]!r}, expected an integer of at least 0")
    return number


def _to_value(index: ShardIndex) -> dict[str, Any]:
    columns = {name: list(getattr(index, name)) for name in ("keys", "offsets", "sizes", "labels")}
    return {**columns, "faults": index.faults}


def _from_value(value: Any) -> ShardIndex | None:
    try:
        keys = tuple(map(str, value["keys"]))
        offsets, sizes, labels = (_column(value[name]) for name in ("offsets", "sizes", "labels"))
        faults = tuple((str(key), str(why)) for key, why in value["faults"])
    except (TypeError, KeyError, ValueError, OverflowError):
        return None
    if not len(keys) == len(offsets) == len(sizes) == len(labels):
        return None
    return ShardIndex(keys, offsets, sizes, labels, faults)
