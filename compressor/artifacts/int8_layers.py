"""How few of the layers that lose accuracy in INT8 have to stay in float32, so that the file is good enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence

ROUNDS = 12
"""Files that are made and tested at most."""


def fewest(order: Sequence[str], passes: Callable[[tuple[str, ...]], bool]) -> tuple[str, ...] | None:
    """The least beginning of ``order`` with which it passes; none if no half of it is enough.

    Without any it has failed already. Beginnings are doubled until one passes, then halved towards the last that
    failed: more layers in float32 are taken to be no worse. Above one half it would be no INT8 file any more.
    """
    most, rounds = len(order) // 2, ROUNDS
    failed, size = 0, 1
    while True:
        if most <= failed or not rounds:
            return None
        size, rounds = min(size, most), rounds - 1
        if passes(tuple(order[:size])):
            break
        failed, size = size, size * 2
    passed = size
    while passed - failed > 1 and rounds:
        middle, rounds = (passed + failed) // 2, rounds - 1
        if passes(tuple(order[:middle])):
            passed = middle
        else:
            failed = middle
    return tuple(order[:passed])
