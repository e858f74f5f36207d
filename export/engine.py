"""The sidecar of a TensorRT engine: facts that decide if the engine may be loaded on this machine.

An engine is machine code for one device and one version, which the GPU's driver runs without a check. So it is loaded
only if the file beside it (`NAME.engine.json`) names the same bytes, library version and device. The sidecar
protects against mix-ups; it is no signature: whoever can write both files can write any engine.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compressor.errors import ExportError

SCHEMA = 1
ANY_DEVICE = "any"
"""TensorRT-RTX builds for every GPU that it supports, and finishes the engine on the machine that loads it."""


@dataclass(frozen=True)
class Place:
    """Place in which an engine is built or loaded: the module and its version, the GPU, its driver."""

    library: str
    version: str
    device: str
    driver: str

    def key(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items())


@dataclass(frozen=True)
class Sidecar:
    """Contents of the sidecar. ``built_from``: SHA-256 of the ONNX file; ``flags``: options of the build."""

    sha256: str
    built_from: str
    place: Place
    flags: dict[str, Any]
    schema: int = SCHEMA

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def sidecar_path(engine: Path) -> Path:
    """Path of the sidecar: ``student.engine.json`` for ``student.engine``."""
    return engine.with_name(f"{engine.name}.json")


def read_sidecar(engine: Path) -> Sidecar:
    """Read the sidecar of an engine; the file is not trusted, so every field is checked."""
    path = sidecar_path(engine)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        place = Place(**value["place"])
        sidecar = Sidecar(value["sha256"], value["built_from"], place, dict(value["flags"]), value["schema"])
    except FileNotFoundError as error:
        raise ExportError(
            f"cannot load `{engine}`: its sidecar `{path.name}` is missing, so it is not known what it was built for",
            _REBUILD,
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ExportError(
            f"cannot load `{engine}`: `{path.name}` is not a valid sidecar", _REBUILD
        ) from error
    texts = (sidecar.sha256, sidecar.built_from, *asdict(place).values())
    if not all(isinstance(text, str) for text in texts) or sidecar.schema != SCHEMA:
        raise ExportError(f"cannot load `{engine}`: `{path.name}` is not a valid sidecar", _REBUILD)
    return sidecar


def trusted_bytes(engine: Path, here: Place) -> bytes:
    """Return the engine's bytes if its sidecar matches them and this machine; raise an error otherwise."""
    sidecar = read_sidecar(engine)
    try:
        content = engine.read_bytes()
    except OSError as error:
        raise ExportError(f"cannot load `{engine}`: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != sidecar.sha256:
        raise ExportError(f"cannot load `{engine}`: its SHA-256 is not the one in `{engine.name}.json`",
                          _REBUILD)  # fmt: skip
    for name, built, current in (
        ("library", sidecar.place.library, here.library),
        ("version", sidecar.place.version, here.version),
        ("device", sidecar.place.device, here.device),
        ("driver", sidecar.place.driver, here.driver),
    ):
        if built not in (current, ANY_DEVICE):
            raise ExportError(
                f"cannot load `{engine}`: it was built for {name} `{built}`, this machine has `{current}`",
                _REBUILD,
            )
    return content


def cache_key(onnx_sha256: str, place: Place, flags: dict[str, Any]) -> str:
    """Name of an engine in the cache; another ONNX file, device, driver, version or flag gives another name."""
    text = json.dumps([SCHEMA, onnx_sha256, asdict(place), flags], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


_REBUILD = "rebuild it here from its ONNX file: compress export FILE.onnx --to tensorrt --out FILE.engine"
