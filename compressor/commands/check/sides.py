"""Read the two sides of a check: an ONNX file, a run folder or a baseline that was written before.

A ``baseline.json`` has the exact costs and names its artifact by path and hash: costs can be compared without the
file, time cannot, because times of two different hours are not comparable.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from compressor.base.files import write_json
from compressor.errors import CompressError, UsageError
from compressor.exporting.artifact import content_of
from compressor.profiling import count_file, fingerprint
from compressor.run.folder import RunFolder
from compressor.run.report.report import read_report

SCHEMA = 1
KIND = "compress baseline"
ENGINES = {".engine", ".plan"}


@dataclass(frozen=True)
class Side:
    """Facts about one side.

    ``file`` is the artifact, or None, with the reason in ``missing``. ``device`` is the machine on which a
    baseline was written; files and folders have none.
    """

    name: str
    file: Path | None
    sha256: str
    macs: int
    params: int
    bytes: int
    operators: Mapping[str, int]
    widths: tuple[int, ...]
    accuracy: float | None = None
    missing: str | None = None
    device: Mapping[str, Any] | None = None

    @property
    def nodes(self) -> int:
        """Number of operators of all kinds."""
        return sum(self.operators.values())


def read_side(argument: str) -> Side:
    """Read the side that an argument of ``compress check`` names."""
    path = Path(argument)
    if path.is_dir():
        return _from_run(path)
    if path.suffix == ".json":
        return _from_baseline(path)
    if path.suffix.lower() in ENGINES:
        raise UsageError(
            f"`{argument}` is a TensorRT engine, which this version can neither count nor run",
            "give the ONNX file that it was built from",
        )
    if not path.is_file():
        raise UsageError(f"no file `{argument}`", "give an ONNX file, a run folder or a baseline.json")
    return _from_file(path, argument, None)


def save_baseline(side: Side, path: Path) -> None:
    """Write a baseline for later checks. The path of the artifact is relative to it, so both can be moved together."""
    if side.file is None:
        raise UsageError(f"cannot save `{side.name}` as a baseline: {side.missing}")
    value = asdict(side) | {
        "schema": SCHEMA,
        "kind": KIND,
        "file": Path(os.path.relpath(side.file.resolve(), path.resolve().parent)).as_posix(),
        "device": fingerprint(),
    }
    del value["missing"]
    write_json(path, value)


def refuse_to_overwrite(path: Path) -> None:
    """Refuse to overwrite a file that is no baseline, so that a wrong path does not delete a network."""
    if not path.exists():
        above = next(parent for parent in path.absolute().parents if parent.exists())
        if not above.is_dir():
            raise UsageError(f"cannot write `{path}`: `{above}` is no folder", "choose another name")
        return
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise UsageError(
            f"`{path}` exists and is no baseline, so --save does not overwrite it", "choose another name"
        )


def _from_file(path: Path, name: str, accuracy: float | None) -> Side:
    counts = count_file(path)
    widths = tuple(layer.width for layer in counts.layers)
    return Side(
        name,
        path,
        content_of(path)[0],
        counts.macs,
        counts.params,
        counts.bytes,
        dict(counts.operators),
        widths,
        accuracy,
    )


def _from_run(path: Path) -> Side:
    report = read_report(path)
    return _from_file(RunFolder(path).artifact("student", ".onnx"), str(path), report.accuracy.get("onnx"))


def _from_baseline(path: Path) -> Side:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"no baseline at `{path}`: {error.strerror}") from error
    except ValueError as error:
        raise CompressError(f"`{path}` is no baseline: it is not JSON") from error
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise CompressError(
            f"`{path}` is no baseline", "`compress check FILE --save baseline.json` writes one"
        )
    if value.get("schema") != SCHEMA:
        raise CompressError(
            f"`{path}` has schema {value.get('schema')}, this version reads {SCHEMA}",
            "write it again with --save",
        )
    try:
        side = Side(
            str(path),
            path.parent / str(value["file"]),
            str(value["sha256"]),
            int(value["macs"]),
            int(value["params"]),
            int(value["bytes"]),
            {str(name): int(number) for name, number in value["operators"].items()},
            tuple(int(width) for width in value["widths"]),
            None if value["accuracy"] is None else float(value["accuracy"]),
            device=dict(value["device"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CompressError(f"`{path}` is damaged: {error}", "write it again with --save") from error
    return _with_verified_file(side)


def _with_verified_file(side: Side) -> Side:
    """Return the side, without its artifact if that is missing or has changed."""
    reason = None
    if side.file is None or not side.file.is_file():
        reason = f"its artifact `{side.file}` is not there"
    elif content_of(side.file)[0] != side.sha256:
        reason = f"its artifact `{side.file}` is not the one that it was written for (another hash)"
    return side if reason is None else replace(side, file=None, missing=reason)
