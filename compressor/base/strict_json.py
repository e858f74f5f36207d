"""Read untrusted JSON strictly, validate its values, and detect changes by a hash.

Refused are files with a repeated key, with NaN or infinity, with too deep nesting, symbolic links, and content that is
not text. The validating functions name the position of a wrong value. A sealed value contains a hash of its own
content: this detects damage and edits by hand, but not forgery, since anybody can compute the hash.
"""

from __future__ import annotations

import hashlib
import json
import math
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from compressor.errors import CompressError

SEAL = "sha256"
DEEPEST = 64
LARGEST_BYTES = 2**28
"""Largest JSON file. A network with a thousand cut layers of a thousand channels needs a fiftieth of it."""
LARGEST = 2**63 - 1
"""Largest whole number. It occurs: a slice without an end is recorded with this end."""


class DamageError(ValueError):
    """A value is not as expected; the caller adds the name of the file."""


def read_bytes(path: Path) -> bytes:
    """The content of a regular file; symbolic links are refused."""
    try:
        kind = path.lstat().st_mode
        if stat.S_ISLNK(kind):
            raise CompressError(
                f"`{path}` is a symbolic link, expected a regular file", "replace the link by the file itself"
            )
        if not stat.S_ISREG(kind):
            raise CompressError(f"`{path}` is not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise CompressError(f"cannot read `{path}`: {error.strerror or error}") from error


def parsed(content: bytes) -> Any:
    """Parse JSON text strictly; `DamageError` if it is not valid."""
    if len(content) > LARGEST_BYTES:
        raise DamageError(f"{len(content):,} bytes of JSON, expected at most {LARGEST_BYTES:,}")
    try:
        value = json.loads(
            content.decode(), object_pairs_hook=_once, parse_constant=_no_number, parse_float=_number
        )
        deep = _depth(value) > DEEPEST
    except RecursionError as error:
        raise DamageError("it is nested too deep") from error
    if deep:
        raise DamageError(f"it is nested deeper than {DEEPEST} levels")
    canonical(value)  # fails for text that cannot be encoded as UTF-8
    return value


def canonical(value: Any) -> bytes:
    """Canonical JSON text of a value, independent of the order of keys and of spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value with a hash of its content, under the key ``SEAL``."""
    return {SEAL: hashlib.sha256(canonical(dict(value))).hexdigest(), **value}


def unsealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value without its hash; `DamageError` if the hash does not match the rest."""
    rest = {key: item for key, item in value.items() if key != SEAL}
    if value.get(SEAL) != hashlib.sha256(canonical(rest)).hexdigest():
        raise DamageError("it was changed after it was written: its content does not match its hash")
    return rest


def readable(value: Any, indent: str = "") -> str:
    """Readable JSON text: one line for each key, and one for each list of plain values."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        lines = [f"{inner}{json.dumps(key)}: {readable(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, list | dict) for item in value):
        lines = [inner + json.dumps(item, ensure_ascii=False, allow_nan=False) for item in value]
        return "[\n" + ",\n".join(lines) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def entries(value: Any, where: str, keys: Collection[str] | None = None) -> dict[str, Any]:
    """Require a dictionary; with ``keys``, one that has exactly these."""
    if type(value) is not dict:
        raise DamageError(f"{where} is {_shown(value)}, expected a dictionary")
    if keys is not None:
        missing = next((key for key in keys if key not in value), None)
        if missing is not None:
            raise DamageError(f"{where} has no entry `{missing}`")
        extra = next((key for key in value if key not in keys), None)
        if extra is not None:
            raise DamageError(f"{where} has an unknown entry `{extra[:80]}`")
    return value


def items(value: Any, where: str, number: int | None = None) -> list[Any]:
    """Require a list; with ``number``, one of that length."""
    if type(value) is not list:
        raise DamageError(f"{where} is {_shown(value)}, expected a list")
    if number is not None and len(value) != number:
        raise DamageError(f"{where} has {len(value)} items, expected {number}")
    return value


def whole(value: Any, where: str, least: int = 0, most: int = LARGEST) -> int:
    """Require a whole number from ``least`` to ``most``."""
    if type(value) is not int:
        raise DamageError(f"{where} is {_shown(value)}, expected a whole number")
    if not least <= value <= most:
        raise DamageError(f"{where} is {_shown(value)}, expected {least} to {most}")
    return value


def text(value: Any, where: str, known: Collection[str] | None = None, longest: int = 4096) -> str:
    """Require a text of at most ``longest`` characters; with ``known``, one of these."""
    if type(value) is not str or len(value) > longest:
        raise DamageError(f"{where} is {_shown(value)}, expected a text")
    if known is not None and value not in known:
        raise DamageError(f"{where} is {_shown(value)}, which is unknown")
    return value


def truth(value: Any, where: str) -> bool:
    """Require true or false."""
    if type(value) is not bool:
        raise DamageError(f"{where} is {_shown(value)}, expected true or false")
    return value


def plain(value: Any, where: str) -> Any:
    """Require a single value: null, true, false, a text, a float, or an integer of at most 64 bits."""
    if type(value) is int:
        return whole(value, where, -LARGEST - 1)
    if value is None or type(value) in (bool, float):
        return value
    return text(value, where)


def _shown(value: Any) -> str:
    if isinstance(value, int | float | str | None):
        shown = repr(value)
        return shown if len(shown) <= 40 else f"{shown[:40]}…"
    return f"a {type(value).__name__}"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise DamageError(
            f"it has the key `{next(name for name in names if names.count(name) > 1)[:80]}` twice"
        )
    return value


def _no_number(name: str) -> Any:
    raise DamageError(f"it contains {name}, which is not valid JSON")


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise DamageError(f"it contains {digits[:40]}, which is too large for a float")
    return value


def _depth(value: Any) -> int:
    """Nesting depth of lists and dictionaries. A loop, because recursion would exceed Python's limit."""
    level = [value]
    depth = 0
    while level and depth <= DEEPEST:
        level = [item for container in level for item in _inside(container)]
        depth += 1
    return depth


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value
