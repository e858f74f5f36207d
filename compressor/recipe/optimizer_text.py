"""The optimizer of a training, as a recipe writes it: NAME, KEY=VALUE, … Values only, without torch.

sgd                                      with Nesterov's momentum of 0.9
sgd, momentum=0.8
adamw, betas=[0.9, 0.95], amsgrad=true   values as in JSON
"""

from __future__ import annotations

import json
import re
from typing import Any

from compressor.errors import UsageError

COMMA = re.compile(r",(?![^\[]*\])")
"""A comma that is not inside brackets."""


def optimizer_of(text: str) -> tuple[str, dict[str, Any]]:
    """Name and settings of an optimizer; a text that says nothing sensible is an error."""
    name, *rest = (part.strip() for part in COMMA.split(text))
    if not name or "=" in name:
        raise _unclear(text, "it begins with no name")
    settings: dict[str, Any] = {}
    for part in rest:
        key, sign, value = (each.strip() for each in part.partition("="))
        try:
            parsed = json.loads(value)
        except ValueError:
            raise _unclear(text, f"`{part}` is not NAME=VALUE") from None
        if not (key and sign):
            raise _unclear(text, f"`{part}` is not NAME=VALUE")
        if key in ("lr", "weight_decay"):
            raise _unclear(text, f"{key} is a key of its own, learning_rate or weight_decay")
        settings[key] = tuple(parsed) if isinstance(parsed, list) else parsed
    momentum = settings.get("momentum", 0.0)
    if not isinstance(momentum, int | float) or not 0 <= momentum < 1:
        raise _unclear(text, f"momentum is {momentum}, expected in [0, 1)")
    return name, settings


def _unclear(text: str, reason: str) -> UsageError:
    return UsageError(
        f"optimizer `{text}`: {reason}",
        "as in `sgd, momentum=0.8` or `adamw, betas=[0.9, 0.95], amsgrad=true`",
    )
