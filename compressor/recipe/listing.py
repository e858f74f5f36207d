"""The keys of a recipe as text: every one with its default and a line that explains it; and changes by `--set`."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Iterator
from typing import Any

import tomli_w

from compressor.errors import UsageError
from compressor.recipe.recipe import Recipe


def keys_of(value: Any, path: str = "") -> Iterator[tuple[str, Any, str]]:
    """Dotted path, value and explanation of every key, those of a section before its subsections."""
    fields = dataclasses.fields(value)
    for field in fields:
        if not dataclasses.is_dataclass(getattr(value, field.name)):
            yield f"{path}{field.name}", getattr(value, field.name), field.metadata["explanation"]
    for field in fields:
        if dataclasses.is_dataclass(getattr(value, field.name)):
            yield from keys_of(getattr(value, field.name), f"{path}{field.name}.")


def listed(recipe: Recipe) -> str:
    """The recipe as TOML, with an explanation behind each key; a key without a value is a comment."""
    lines, section = [], ""
    for path, value, explanation in keys_of(recipe):
        head, _, key = path.rpartition(".")
        if head != section:
            lines += ["", f"[{head}]"]
            section = head
        text = f"# {key} =" if value is None else tomli_w.dumps({key: _plain(value)}).strip()
        lines.append(f"{text:<32} # {explanation}")
    return "\n".join(lines) + "\n"


def changes_from(texts: Iterable[str]) -> dict[str, Any]:
    """Changes by dotted path from texts such as ``budget.granule=16``; a value that is no TOML is a string."""
    changes: dict[str, Any] = {}
    for text in texts:
        path, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not path:
            raise UsageError(
                f"--set `{text}` has no value", "as in --set budget.granule=16; keys: compress recipe"
            )
        try:
            changes[path] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            changes[path] = value
    return changes


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
