"""One process of a measured check: opens both files, times interleaved pairs, prints every sample as JSON.

It is a program of its own (`python -m compressor.guard.launch`) because the process is what must be repeated: where its
memory and its threads fell stays the same as long as it lives. It imports neither torch nor anything that does.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from export import ExportError, Session, open_session
from profiles import ProfileError, measure

LEAST_MS = 1.0
"""A sample takes at least as long: a clock and a scheduler can do little with less."""


def launch(order: Mapping[str, Any]) -> dict[str, Any]:
    """Time ``baseline`` against ``candidate`` as the order says."""
    sides = ("baseline", "candidate")
    sessions = {side: open_session(Path(order[side]), threads=order["threads"]) for side in sides}
    feeds = {side: _feed(session, order["batch"], order["seed"]) for side, session in sessions.items()}
    if _described(sessions["baseline"]) != _described(sessions["candidate"]):
        first, second = (", ".join(_described(session)) for session in sessions.values())
        raise ProfileError(f"the two take different inputs: {first} and {second}")
    for side, session in sessions.items():
        for name, value in session.run(feeds[side]).items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ProfileError(f"output `{name}` of `{session.path}` is not finite on random inputs")
    calls: dict[str, Callable[[], object]] = {}
    repeats = max(_repeats(sessions[side], feeds[side]) for side in sides)
    for side in sides:
        calls[side] = _repeated(sessions[side], feeds[side], repeats)
    timings = measure(calls, samples=order["pairs"], warmup_s=order["warmup_s"], seed=order["seed"])
    return {side: timing.to_dict() for side, timing in timings.items()} | {"calls_in_a_sample": repeats}


def _feed(session: Session, batch: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    feed: dict[str, Any] = {}
    for given in session.inputs:
        shape = [
            batch if number == 0 and not isinstance(size, int) else size
            for number, size in enumerate(given.shape)
        ]
        if not all(isinstance(size, int) for size in shape):
            raise ProfileError(
                f"input `{given.name}` of `{session.path}` has free axes besides the batch: {list(given.shape)}",
                "export with fixed sizes",
            )
        values = rng.standard_normal([int(size) for size in shape])
        feed[given.name] = (
            values.astype(given.dtype)
            if given.dtype.startswith("float")
            else np.zeros(values.shape, given.dtype)
        )
    return feed


def _described(session: Session) -> list[str]:
    return [f"{given.name} {given.dtype} {list(given.shape)}" for given in session.inputs]


def _repeats(session: Session, feed: Mapping[str, Any]) -> int:
    started = time.perf_counter()
    for _ in range(3):
        session.run(feed)
    each = (time.perf_counter() - started) / 3
    return max(1, round(LEAST_MS / 1e3 / each + 0.5))


def _repeated(session: Session, feed: Mapping[str, Any], times: int) -> Callable[[], object]:
    def call() -> None:
        for _ in range(times):
            session.run(feed)

    return call


def main() -> None:
    """Read the order from stdin; answer on stdout, errors included."""
    try:
        answer = launch(json.load(sys.stdin))
    except (ExportError, ProfileError) as error:
        answer = {"error": str(error), "hint": error.hint}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
