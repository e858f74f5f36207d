"""The errors a user may meet, drawn first.

    CompressError                1  something we were asked for cannot be done
    └── UsageError               2  the request itself is wrong: a name, a key, a number

Inner code raises the short fact; the boundary that knows *where* adds it. A message is
one line: where, what was found, what was expected. The way out is the ``hint``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CompressError(Exception):
    """The request cannot be carried out; the message says where and why."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(CompressError):
    """The request itself is wrong."""

    exit_code = 2


def unknown_name(kind: str, given: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is in no table: the nearest right names come first."""
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    if near:
        hint = "did you mean " + " or ".join(f"`{name}`" for name in near) + "?"
    else:
        shown = names if len(names) <= 12 else [*names[:12], "…"]
        hint = "known: " + ", ".join(shown)
    return UsageError(f"unknown {kind} `{given}`", hint)


class ExportError(Exception):
    """A model could not be written, opened, run or compared; the message says why."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class NotHereError(ExportError):
    """A file is not at fault: what runs it, a library or a device, is not here."""


class ProfileError(Exception):
    """A cost that cannot be counted or measured; the message says of what and why."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def first_line(error: Exception) -> str:
    """The first line of a library's error, which often goes on for pages."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip()
