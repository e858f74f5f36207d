"""Index of a shard: position, size and label of each sample, read once and cached.

A shard is a tar file in the format of WebDataset: members with a common name up to the first dot are one
sample, ``key.jpg`` its picture and ``key.cls`` (or ``key.txt``, or ``label`` in ``key.json``) its
label. Finding them means reading all headers, two minutes for a million samples; the result is cached
under path, size and modification time. Damaged samples are recorded, the readable ones are used.
Not supported: compressed tar files, which have no random access.
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
    """The samples of a shard: keys, positions and sizes of the pictures, labels.

    Stored as columns of numbers, because a data set may have millions of samples. ``faults``: pairs of a
    sample's key (empty for the shard itself) and the reason why it cannot be read.
    """

    keys: tuple[str, ...] = ()
    offsets: array[int] = field(default_factory=_column)
    sizes: array[int] = field(default_factory=_column)
    labels: array[int] = field(default_factory=_column)
    faults: tuple[tuple[str, str], ...] = ()


def index_of(file: Path) -> ShardIndex:
    """The index of a shard, from the cache or else from the file."""
    try:
        about = file.stat()
    except OSError as error:
        return _unreadable(error)
    key = key_of({"file": str(file.resolve()), "size": about.st_size, "changed": about.st_mtime_ns})
    cached = _from_value(read_value(_KIND, key))
    if cached is not None:
        return cached
    try:
        index = _walked(file)
    except OSError as error:  # not cached, because it may be readable later
        return _unreadable(error)
    write_value(_KIND, key, _to_value(index))
    return index


def _unreadable(error: OSError) -> ShardIndex:
    return ShardIndex(faults=(("", error.strerror or str(error)),))


def _walked(file: Path) -> ShardIndex:
    """The index, read from the headers and labels of the file."""
    with file.open("rb") as opened:
        groups, damage = _groups(file, opened.fileno())
        rows: list[tuple[str, int, int, int]] = []
        faults = [("", damage)] if damage else []
        for key, places in groups.items():
            picture = next((places[ending] for ending in PICTURES if ending in places), None)
            if picture is None or (damage and places.keys().isdisjoint(LABELS)):
                continue  # in a truncated shard the last sample may have lost its label
            try:
                rows.append((key, *picture, _label(places, opened.fileno())))
            except ValueError as error:
                faults.append((key, str(error)))
    keys, offsets, sizes, labels = zip(*rows, strict=True) if rows else ((), (), (), ())
    return ShardIndex(keys, _column(offsets), _column(sizes), _column(labels), tuple(faults))


def _groups(file: Path, descriptor: int) -> tuple[dict[str, dict[str, Place]], str | None]:
    """The places of each sample's members, by suffix; and the error that stopped the reading early, or None."""
    groups: dict[str, dict[str, Place]] = {}
    length = os.fstat(descriptor).st_size
    try:
        with tarfile.open(file, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # otherwise it would keep all members
                folder, slash, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                whole = member.offset_data + member.size <= length
                if member.isreg() and not member.issparse() and stem and ending and whole:
                    place = (member.offset_data, member.size)
                    groups.setdefault(folder + slash + stem, {})[ending.lower()] = place
            end = tar.offset
    except (tarfile.TarError, EOFError, ValueError) as error:
        return groups, str(error)
    # tarfile stops without an error at anything that is not a header; correct is only a block of zeros, or the end.
    after = os.pread(descriptor, _BLOCK, end)
    return groups, f"it is not a tar file after byte {end:,}" if after.strip(b"\0") else None


def _label(places: Mapping[str, Place], descriptor: int) -> int:
    ending = next((ending for ending in LABELS if ending in places), None)
    if ending is None:
        raise ValueError("no label: expected a member .cls, .txt or .json with the same key")
    offset, size = places[ending]
    if size > _LONGEST_LABEL:
        raise ValueError(f"its .{ending} has {size:,} bytes, expected a label of at most {_LONGEST_LABEL:,}")
    text = os.pread(descriptor, size, offset).decode(errors="replace").strip()
    label: Any = text
    if ending == "json":
        try:
            content = json.loads(text)
        except ValueError as error:
            raise ValueError(f"its .json is not valid JSON: {error}") from None
        label = content.get("label") if isinstance(content, dict) else None
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
