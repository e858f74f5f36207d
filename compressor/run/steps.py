"""The steps of a run as they happen: who listens is told, and what was done is kept with its seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol


@dataclass
class Step:
    """One step: its name, its seconds once it is over, and one line about what came of it."""

    name: str
    seconds: float = 0.0
    outcome: str = ""


class Listener(Protocol):
    """Whoever wants to see a run while it goes on."""

    def started(self, step: Step) -> None:
        """A step begins."""

    def moved(self, step: Step, done: float, text: str) -> None:
        """A long step is this share (0 to 1) on its way."""

    def ended(self, step: Step) -> None:
        """A step is over; its seconds and outcome are set."""

    def warned(self, message: str) -> None:
        """Something the user should know, at once and again in the report."""


class Silent:
    """Listens to nothing."""

    def started(self, step: Step) -> None: ...
    def moved(self, step: Step, done: float, text: str) -> None: ...
    def ended(self, step: Step) -> None: ...
    def warned(self, message: str) -> None: ...


@dataclass
class Steps:
    """The account of one run. The rule between calls: a step that ended is in ``done``, in order."""

    listener: Listener = field(default_factory=Silent)
    done: list[Step] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Run a block as a step. A block that fails is no step that was done."""
        step = Step(name)
        self.listener.started(step)
        start = time.perf_counter()
        yield step
        step.seconds = time.perf_counter() - start
        self.done.append(step)
        self.listener.ended(step)

    def warn(self, message: str) -> None:
        """Say something once, now and in the report."""
        if message not in self.warnings:
            self.warnings.append(message)
            self.listener.warned(message)
