"""A model file with the facts that identify it, and writing it atomically.

An exporter writes into a temporary folder beside the target and checks the result; only then
is the file renamed to its final name. So nobody reads half a model under that name, and a failed
export leaves the previous model in place. The folder of a whole run is not made here.
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
    """Deviations from the request or the ideal, one sentence each; a report prints them."""

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
    """SHA-256 and size in bytes of a model file together with its weights file, if it has one."""
    digest, size = hashlib.sha256(), 0
    for file in (path, weights_beside(path)):
        if file.exists():
            size += file.stat().st_size
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest(), size


def weights_beside(path: Path) -> Path:
    """Path of the weights file of a model too large for one file, or of one that always has two (OpenVINO)."""
    if path.suffix == ".xml":
        return path.with_suffix(".bin")
    return path.with_name(f"{path.name}.data")


@contextmanager
def appearing_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path; the file written there replaces ``path`` if the block succeeds.

    Files written beside the temporary path move too, the model itself last: for an instant a reader
    may find new weights beside the old model, never a model without weights.
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
    except ValueError:  # the file is outside the folder: only the absolute path is correct
        return path.resolve()


@contextmanager
def _failing_clearly(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportError(
            f"cannot write `{path}`: {error.strerror or error}",
            "existing files are unchanged; free disk space or choose another path",
        ) from error
