"""The keys of a recipe as text: every one with its default and a line that explains it; and changes by `--set`."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import tomli_w

from compressor.errors import UsageError
from compressor.recipe.recipe import Recipe
from compressor.recipe.setting import keys_and_sections

WIDTH = 120
"""Of a line of `listed`; where a value and its explanation are longer, the explanation stands above it."""
LONG = 40
"""Characters of a key and its value beyond which they do not move the comments of their section."""


def keys_of(value: Any, path: str = "") -> Iterator[tuple[str, Any, str]]:
    """Dotted path, value and explanation of every key, those of a section before its subsections."""
    fields = keys_and_sections(value)
    for field in fields:
        if not dataclasses.is_dataclass(getattr(value, field.name)):
            yield f"{path}{field.name}", getattr(value, field.name), field.metadata["explanation"]
    for field in fields:
        if dataclasses.is_dataclass(getattr(value, field.name)):
            yield from keys_of(getattr(value, field.name), f"{path}{field.name}.")


def listed(recipe: Recipe) -> str:
    """The recipe as TOML, with an explanation behind each key; a key without a value is a comment."""
    parts = []
    for section, keys in groupby(keys_of(recipe), lambda key: key[0].rpartition(".")[0]):
        rows = [(_assigned(path.rpartition(".")[2], value), explanation) for path, value, explanation in keys]
        column = max((len(text) for text, _ in rows if len(text) <= LONG), default=0)
        lines = [f"[{section}]"] if section else []
        for text, explanation in rows:
            line = f"{text:<{column}}  # {explanation}"
            lines += [line] if len(line) <= WIDTH else [f"# {explanation}", text]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


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


def _assigned(key: str, value: Any) -> str:
    return f"# {key} =" if value is None else f"{key} = {_value(value)}"


def _value(value: Any) -> str:
    """A value as TOML; a list on one line, which tomli_w would wrap."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    return tomli_w.dumps({"key": value}).removeprefix("key = ").rstrip("\n")
