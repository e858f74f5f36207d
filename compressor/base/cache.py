"""Cache on disk for results that are costly to compute again, such as trained networks.

An entry's name is a hash of its ingredients (all inputs of the result), so a changed recipe, program or
version has another name and no entry ever needs to be invalidated. Entries are written completely or not
at all. Tensors are checked against their hash when read; a damaged entry counts as absent.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path
from safetensors.torch import load, save
from torch import Tensor

from compressor.base.files import folder_appearing_whole, sha256_of, write_atomic, write_json
from compressor.errors import CompressError


def cache_root() -> Path:
    """The cache folder: ``$COMPRESS_CACHE``, else the platform's standard one."""
    folder = os.environ.get("COMPRESS_CACHE")
    return Path(folder) if folder else user_cache_path("compress-to-edge", appauthor=False)


def key_of(ingredients: Mapping[str, Any]) -> str:
    """The name of the entry with these ingredients."""
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:24]


def read_tensors(kind: str, key: str) -> dict[str, Tensor] | None:
    """The tensors stored under this key, or None if there are none or they are damaged."""
    entry = cache_root() / kind / key
    try:
        about = json.loads((entry / "about.json").read_text())
        if about["sha256"] != sha256_of(entry / "weights.safetensors"):
            return None
        return load((entry / "weights.safetensors").read_bytes())
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_tensors(kind: str, key: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> str | None:
    """Store tensors under this key; on failure return the reason, since a missing entry costs only time."""
    try:
        with folder_appearing_whole(cache_root() / kind / key) as scratch:
            file = scratch / "weights.safetensors"
            owned = {
                name: tensor.clone().contiguous() for name, tensor in tensors.items()
            }  # tied ones share memory
            write_atomic(file, save(owned))
            write_json(scratch / "about.json", {**about, "sha256": sha256_of(file)})
    except CompressError as error:
        return str(error)
    return None


def read_numbers(kind: str, key: str) -> dict[str, float]:
    """The numbers stored under this key; empty if there are none or the file is damaged."""
    try:
        return {str(name): float(number) for name, number in read_value(kind, key).items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def write_numbers(kind: str, key: str, numbers: Mapping[str, float]) -> None:
    """Store numbers under this key; ignore failures, since a missing entry costs only time."""
    with suppress(CompressError):
        write_json(cache_root() / kind / f"{key}.json", dict(numbers))


def read_value(kind: str, key: str) -> Any:
    """The value stored under this key, or None if there is none or the file is not JSON."""
    try:
        return json.loads((cache_root() / kind / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_value(kind: str, key: str, value: Any) -> None:
    """Store a value of any size as JSON on one line; ignore failures."""
    with suppress(CompressError):
        write_atomic(cache_root() / kind / f"{key}.json", json.dumps(value))
