"""JSON from strangers: read without surprises, taken apart without trust, and noticed when it was edited.

A file is refused that says a key twice, holds NaN or infinity, nests without end, is a link to somewhere else, or is no
text at all. The functions that take a value apart say where the wrong one is. A sealed value carries a hash of its own
content: that tells an accident or an edit by hand, not a forger, who can compute a hash too.
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
"""Of a JSON file. A network with a thousand cut layers of a thousand channels needs a fiftieth."""
LARGEST = 2**63 - 1
"""Of a whole number. It occurs: a slice to the end is recorded as one to here."""


class DamageError(ValueError):
    """A value is not what it should be; whoever knows the file says which one it is in."""


def read_bytes(path: Path) -> bytes:
    """The content of an ordinary file, in a folder that holds its own files."""
    try:
        kind = path.lstat().st_mode
        if stat.S_ISLNK(kind):
            raise CompressError(f"`{path}` is a symbolic link", "put the file itself in its place")
        if not stat.S_ISREG(kind):
            raise CompressError(f"`{path}` is no ordinary file")
        return path.read_bytes()
    except OSError as error:
        raise CompressError(f"cannot read `{path}`: {error.strerror or error}") from error


def parsed(content: bytes) -> Any:
    """The value that JSON text stands for."""
    if len(content) > LARGEST_BYTES:
        raise DamageError(f"{len(content):,} bytes of JSON, expected at most {LARGEST_BYTES:,}")
    try:
        value = json.loads(
            content.decode(), object_pairs_hook=_once, parse_constant=_no_number, parse_float=_number
        )
        deep = _depth(value) > DEEPEST
    except RecursionError as error:
        raise DamageError("it nests too deep") from error
    if deep:
        raise DamageError(f"it nests deeper than {DEEPEST} levels")
    canonical(value)
    return value


def canonical(value: Any) -> bytes:
    """The one text of a JSON value, whatever the order of its keys and its spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value with a hash of its content."""
    return {SEAL: hashlib.sha256(canonical(dict(value))).hexdigest(), **value}


def unsealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value without its hash, which must be that of the rest."""
    rest = {key: item for key, item in value.items() if key != SEAL}
    if value.get(SEAL) != hashlib.sha256(canonical(rest)).hexdigest():
        raise DamageError("it was changed after it was written: its content does not have the hash it says")
    return rest


def readable(value: Any, indent: str = "") -> str:
    """JSON text for people: a line for each key, and one for each list of plain values."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        lines = [f"{inner}{json.dumps(key)}: {readable(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, list | dict) for item in value):
        lines = [inner + json.dumps(item, ensure_ascii=False, allow_nan=False) for item in value]
        return "[\n" + ",\n".join(lines) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def entries(value: Any, where: str, keys: Collection[str] | None = None) -> dict[str, Any]:
    """A dictionary; with ``keys``, one that has exactly these."""
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
    """A list; with ``number``, one of that length."""
    if type(value) is not list:
        raise DamageError(f"{where} is {_shown(value)}, expected a list")
    if number is not None and len(value) != number:
        raise DamageError(f"{where} has {len(value)} items, expected {number}")
    return value


def whole(value: Any, where: str, least: int = 0, most: int = LARGEST) -> int:
    """A whole number, within its bounds."""
    if type(value) is not int:
        raise DamageError(f"{where} is {_shown(value)}, expected a whole number")
    if not least <= value <= most:
        raise DamageError(f"{where} is {_shown(value)}, expected {least} to {most}")
    return value


def text(value: Any, where: str, known: Collection[str] | None = None, longest: int = 4096) -> str:
    """A text; with ``known``, one of these."""
    if type(value) is not str or len(value) > longest:
        raise DamageError(f"{where} is {_shown(value)}, expected a text")
    if known is not None and value not in known:
        raise DamageError(f"{where} is {_shown(value)}, which is not known")
    return value


def truth(value: Any, where: str) -> bool:
    """True or false."""
    if type(value) is not bool:
        raise DamageError(f"{where} is {_shown(value)}, expected true or false")
    return value


def plain(value: Any, where: str) -> Any:
    """A single value: nothing, a truth, a text, or a number that a machine can count with."""
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
        raise DamageError(f"it says `{next(name for name in names if names.count(name) > 1)[:80]}` twice")
    return value


def _no_number(name: str) -> Any:
    raise DamageError(f"it holds {name}, which is no JSON")


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise DamageError(f"it holds {digits[:40]}, which no number is large enough for")
    return value


def _depth(value: Any) -> int:
    """How deep lists and dictionaries nest. Counted in a loop, for a stack ends sooner than a file."""
    level = [value]
    depth = 0
    while level and depth <= DEEPEST:
        level = [item for each in level for item in _inside(each)]
        depth += 1
    return depth


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value
