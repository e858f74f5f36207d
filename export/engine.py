"""An engine on disk, and the facts that decide whether it may be loaded here.

An engine is machine code that the GPU's driver runs unseen, made for one device and one version. So it is loaded only
where the file beside it (`NAME.engine.json`) says that it is these bytes, built by this version, for this device. The
sidecar protects against mix-ups; it is no signature: whoever can write both files can write any engine.
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
"""TensorRT-RTX builds for every GPU it supports, and finishes the engine where it is loaded."""


@dataclass(frozen=True)
class Place:
    """Where an engine is built or loaded: the module and its version, the GPU, its driver."""

    library: str
    version: str
    device: str
    driver: str

    def key(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items())


@dataclass(frozen=True)
class Sidecar:
    """What stands beside an engine. ``built_from``: the SHA-256 of the ONNX file; ``flags``: how it was built."""

    sha256: str
    built_from: str
    place: Place
    flags: dict[str, Any]
    schema: int = SCHEMA

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def sidecar_path(engine: Path) -> Path:
    """``student.engine`` has ``student.engine.json``."""
    return engine.with_name(f"{engine.name}.json")


def read_sidecar(engine: Path) -> Sidecar:
    """The sidecar of an engine; it comes from a stranger, so every field is looked at."""
    path = sidecar_path(engine)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        place = Place(**value["place"])
        found = Sidecar(value["sha256"], value["built_from"], place, dict(value["flags"]), value["schema"])
    except FileNotFoundError as error:
        raise ExportError(
            f"cannot load `{engine}`: `{path.name}`, which says what it was built for, is missing", _REBUILD
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ExportError(f"cannot load `{engine}`: `{path.name}` is no sidecar", _REBUILD) from error
    texts = (found.sha256, found.built_from, *asdict(place).values())
    if not all(isinstance(text, str) for text in texts) or found.schema != SCHEMA:
        raise ExportError(f"cannot load `{engine}`: `{path.name}` is no sidecar", _REBUILD)
    return found


def trusted_bytes(engine: Path, here: Place) -> bytes:
    """The engine's bytes if its sidecar fits them and this place; otherwise what to rebuild."""
    sidecar = read_sidecar(engine)
    try:
        content = engine.read_bytes()
    except OSError as error:
        raise ExportError(f"cannot load `{engine}`: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != sidecar.sha256:
        raise ExportError(f"cannot load `{engine}`: its bytes are not those that `{engine.name}.json` vouches for",
                          _REBUILD)  # fmt: skip
    for name, built, found in (
        ("library", sidecar.place.library, here.library),
        ("version", sidecar.place.version, here.version),
        ("device", sidecar.place.device, here.device),
        ("driver", sidecar.place.driver, here.driver),
    ):
        if built not in (found, ANY_DEVICE):
            raise ExportError(
                f"cannot load `{engine}`: it was built with {name} `{built}`, here is `{found}`", _REBUILD
            )
    return content


def cache_key(onnx_sha256: str, place: Place, flags: dict[str, Any]) -> str:
    """Under which an engine is kept: another ONNX file, device, driver, version or flag is another engine."""
    text = json.dumps([SCHEMA, onnx_sha256, asdict(place), flags], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


_REBUILD = "rebuild it here from its ONNX file: compress export FILE.onnx --to tensorrt --out FILE.engine"
