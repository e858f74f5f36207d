"""What an export leaves behind, and how it gets to disk.

An exporter writes into a scratch folder beside the target, checks what it wrote, and only
then does the file take its final name. So the name never shows half a model, and a failing
export leaves yesterday's model where it was. Making a folder for a whole run is not done here.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compressor.errors import ExportError


@dataclass(frozen=True)
class Artifact:
    """A model file, and the facts that identify it."""

    path: Path
    format: str
    precision: str
    opset: int | None
    sha256: str
    bytes: int
    notes: tuple[str, ...] = ()
    """What was not done as asked or hoped, one sentence each; a report prints them."""

    def to_dict(self, relative_to: Path | None = None) -> dict[str, Any]:
        """The artifact as JSON values; ``relative_to`` makes a run folder movable."""
        path = self.path if relative_to is None else _relative(self.path, relative_to)
        return {**asdict(self), "path": path.as_posix(), "notes": list(self.notes)}


def describe(
    path: Path, *, format: str, precision: str, opset: int | None, notes: tuple[str, ...] = ()
) -> Artifact:
    """The artifact at ``path``; weights kept in a file beside it count and are hashed too."""
    sha256, size = content_of(path)
    return Artifact(path, format, precision, opset, sha256, size, notes)


def content_of(path: Path) -> tuple[str, int]:
    """The SHA-256 and the bytes of a model and of the weights beside it."""
    digest, size = hashlib.sha256(), 0
    for file in (path, weights_beside(path)):
        if file.exists():
            size += file.stat().st_size
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest(), size


def weights_beside(path: Path) -> Path:
    """Where the weights lie of a model that is too large for one file, or that always has two (OpenVINO)."""
    if path.suffix == ".xml":
        return path.with_suffix(".bin")
    return path.with_name(f"{path.name}.data")


@contextmanager
def appearing_whole(path: Path) -> Iterator[Path]:
    """Yield a scratch path; what is there when the block succeeds replaces ``path``.

    Files written beside the scratch path move too, and the model itself moves last: a reader
    may for an instant find new weights under the old model, never a model without weights.
    """
    with _failing_clearly(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            yield scratch / path.name
            for file in sorted(scratch.iterdir(), key=lambda file: file.name == path.name):
                _flush(file)
                os.replace(file, path.with_name(file.name))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _flush(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _relative(path: Path, folder: Path) -> Path:
    try:
        return path.resolve().relative_to(folder.resolve())
    except ValueError:  # outside the folder: the full path is the only true answer
        return path.resolve()


@contextmanager
def _failing_clearly(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportError(
            f"cannot write `{path}`: {error.strerror or error}",
            "nothing that was there before is damaged; free space or choose another path",
        ) from error
