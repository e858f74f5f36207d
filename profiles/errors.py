"""What went wrong while counting or measuring, and the way out as a ``hint``.

One class is enough: every failure here has the same answer, to change what was handed in.
"""

from __future__ import annotations


class ProfileError(Exception):
    """A cost that cannot be counted or measured; the message says of what and why."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
