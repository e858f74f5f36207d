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
