"""Losses beside the teacher's answers and the labels, as a recipe writes them. Values only, without torch.

pkt                                          with its usual weight, between the layers that `auto` finds
pkt=100, decay=0.7                           its weight 100 · 0.7^epoch
fitnet=1, layers=layer2/stage3 layer3, until=12
kd++=2, ramp=20
crd=0.8, temperature=0.1                     what is no word of ours is a setting of the loss
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from compressor.errors import UsageError

AUTO = "auto"
Setting = float | str


@dataclass(frozen=True)
class Term:
    """One loss: its name, its weight (none: the usual one) and how that changes, the layers of student and teacher.

    In epoch e (from 0) it counts weight · decay^e · min(1, (e + 1) / ramp), and nothing before ``start`` or from
    ``until`` on. Layers are pairs of module paths; an empty tuple is `auto`.
    """

    text: str
    name: str
    weight: float | None = None
    layers: tuple[tuple[str, str], ...] | None = None
    decay: float = 1.0
    ramp: int = 1
    start: int = 0
    until: int | None = None
    settings: dict[str, Setting] = field(default_factory=dict)

    def share_at(self, epoch: int) -> float:
        """The factor of its weight in this epoch."""
        if epoch < self.start or (self.until is not None and epoch >= self.until):
            return 0.0
        return self.decay**epoch * min(1.0, (epoch + 1) / self.ramp)


def terms_of(texts: Sequence[str]) -> tuple[Term, ...]:
    """The terms in a recipe's ``distil.losses``; a text that is no term is an error."""
    return tuple(_term(text) for text in texts)


def _term(text: str) -> Term:
    head, *rest = (part.strip() for part in text.split(","))
    name, sign, weight = (part.strip() for part in head.partition("="))
    if not name:
        raise _unclear(text, "it names no loss")
    given: dict[str, object] = {"weight": _number(text, "weight", weight) if sign else None}
    settings: dict[str, Setting] = {}
    for part in rest:
        key, sign, value = (each.strip() for each in part.partition("="))
        if not sign or not value:
            raise _unclear(text, f"`{part}` is not NAME=VALUE")
        if key == "layers":
            given[key] = () if value == AUTO else pairs_from(value, f"loss `{text}`")
        elif key == "decay":
            given[key] = _number(text, key, value, above=0.0)
        elif key in ("ramp", "start", "until"):
            given[key] = _whole(text, key, value, least=0 if key == "start" else 1)
        else:
            settings[key] = _setting(value)
    return Term(text, name, **given, settings=settings)  # type: ignore[arg-type]


def pairs_from(text: str, where: str) -> tuple[tuple[str, str], ...]:
    """Layers of student and teacher, as in ``layer2/stage3 layer3``."""
    pairs = []
    for each in text.split():
        mine, slash, theirs = each.partition("/")
        if slash and not (mine and theirs):
            raise UsageError(
                f"{where}: `{each}` is not STUDENT_LAYER/TEACHER_LAYER", "as in `layer2/stage3 layer3`"
            )
        pairs.append((mine, theirs if slash else mine))
    return tuple(pairs)


def _number(text: str, key: str, value: str, above: float | None = None) -> float:
    try:
        number = float(value)
    except ValueError:
        raise _unclear(text, f"{key} is `{value}`, expected a number") from None
    if not 0 <= number < float("inf") or (above is not None and number <= above):
        raise _unclear(text, f"{key} is {value}, expected {'above' if above is not None else 'at least'} 0")
    return number


def _whole(text: str, key: str, value: str, least: int) -> int:
    if not value.isdecimal() or int(value) < least:
        raise _unclear(text, f"{key} is `{value}`, expected epochs, at least {least}")
    return int(value)


def _setting(value: str) -> Setting:
    try:
        return float(value)
    except ValueError:
        return value


def _unclear(text: str, reason: str) -> UsageError:
    return UsageError(
        f"loss `{text}`: {reason}",
        "as in `pkt`, `pkt=100, decay=0.7` or `fitnet=1, layers=layer2/stage3"
        " layer3, ramp=5, start=2, until=12`",
    )
