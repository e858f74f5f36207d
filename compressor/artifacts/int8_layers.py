"""Find the smallest set of layers that must stay in float32 so that an INT8 file passes its checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

ROUNDS = 12
"""Largest number of files that are written and tested."""


def fewest(order: Sequence[str], passes: Callable[[tuple[str, ...]], bool]) -> tuple[str, ...] | None:
    """The shortest prefix of ``order`` with which the file passes; None if no prefix up to one half of it passes.

    The file has failed with none already. The prefix is doubled until one passes, then bisected towards the last
    that failed: this assumes that more layers in float32 are never worse. Above one half it is no INT8 file any more.
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
