"""A key of a recipe: its default and a line that explains it, for `compress recipe`."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

T = TypeVar("T")


def setting(default: T, explanation: str) -> T:
    """A dataclass field with this default and explanation."""
    key: Any = dataclasses.field(default=default, metadata={"explanation": explanation})
    made: T = key
    return made


def by_code(default: T) -> T:
    """A dataclass field that is no key: code may set it (a method, a benchmark), a recipe cannot."""
    value: Any = dataclasses.field(default=default, metadata={"by_code": True})
    made: T = value
    return made


def keys_and_sections(kind: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a section that a recipe may hold."""
    return [field for field in dataclasses.fields(kind) if "by_code" not in field.metadata]


def values_by_code(section: Any) -> dict[str, Any]:
    """The fields that a recipe cannot hold, where they differ from their defaults."""
    fields = [field for field in dataclasses.fields(section) if "by_code" in field.metadata]
    return {
        field.name: getattr(section, field.name)
        for field in fields
        if getattr(section, field.name) != field.default
    }
