"""Small pictures, in folders and in shards, for the tests of what reads them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image


def speckled(number: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A picture that no other number has."""
    count = size[0] * size[1] * 3
    pixels = torch.randint(256, (count,), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
    return Image.frombytes("RGB", size, bytes(pixels.tolist()))


def encoded(number: int, ending: str = "png") -> bytes:
    """The bytes of that picture as a file."""
    file = io.BytesIO()
    speckled(number).save(file, {"jpg": "jpeg"}.get(ending, ending))
    return file.getvalue()


def write_folders(folder: Path, count: int = 10, names: Iterable[str] = ("cat", "dog")) -> Path:
    """Class folders with so many pictures each, all of them different."""
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (folder / name / f"{number:02}.png").write_bytes(encoded(100 * label + number))
    return folder


def write_tar(file: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar file with these members."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return file


def write_shard(file: Path, count: int = 5, first: int = 0, label: str = "cls", ending: str = "png") -> Path:
    """A shard of so many samples, numbered on; odd ones are of class 1."""
    members = []
    for number in range(first, first + count):
        members.append((f"{number:04}.{ending}", encoded(number, ending)))
        told = json.dumps({"label": number % 2}) if label == "json" else str(number % 2)
        members.append((f"{number:04}.{label}", told.encode()))
    return write_tar(file, members)


def write_shards(folder: Path, shards: int = 4, count: int = 5) -> Path:
    """Shards named ``x-00.tar`` and so on."""
    for shard in range(shards):
        write_shard(folder / f"x-{shard:02}.tar", count, shard * count)
    return folder
