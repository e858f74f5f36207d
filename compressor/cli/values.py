"""Values of options from their text, and results as text."""

from __future__ import annotations

import json
from typing import Any

from compressor.errors import UsageError

TRUST_HELP = "Import and call the code that a student folder names."


def names(context: Any, option: Any, text: str | None) -> tuple[str, ...] | None:
    """Of an option with several names, as in ``onnx,onnx-int8``; none if it is not given."""
    return None if text is None else tuple(name for name in text.replace(" ", "").split(",") if name)


def numbers(context: Any, option: Any, text: str) -> tuple[int, ...]:
    """Of an option with several whole numbers, as in ``1,8``."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"{option.opts[0]} `{text}` is no list of numbers", "as in 1,8")
    return tuple(int(part) for part in parts)


def shape_from(text: str | None) -> tuple[int, ...] | None:
    """The sizes of one sample: channels, height and width of an image, with frames before them for a video."""
    if text is None:
        return None
    parts = text.replace("x", ",").split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise UsageError(
            f"shape `{text}` is not a list of numbers above 0",
            "channels, height, width, as in 3,224,224; 3,16,112,112 is a video of 16 frames",
        )
    return tuple(int(part) for part in parts)


def print_json(value: Any) -> None:
    """For other programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def stdout() -> Any:
    """For people."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)
