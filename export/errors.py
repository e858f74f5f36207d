"""The one error of this package.

A message is one line: what was exported, where it broke, what was found. The way out is
the ``hint``. The original exception, with all its pages, stays chained as the cause.
"""

from __future__ import annotations


class ExportError(Exception):
    """A model could not be written, opened, run or compared; the message says why."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class NotHereError(ExportError):
    """A file is not at fault: what runs it, a library or a device, is not here."""


def first_line(error: Exception) -> str:
    """What a library says before it goes on for pages."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip()
