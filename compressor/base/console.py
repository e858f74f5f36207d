"""Print messages and errors to stderr."""

from __future__ import annotations

import sys

from rich.console import Console

talk = Console(stderr=True, highlight=False, soft_wrap=True)


def complain(message: str, hint: str | None) -> None:
    """Print an error and its hint to stderr, one line each."""
    print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
