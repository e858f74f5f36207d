"""The steps of a run: report each to the listener, and keep it with its seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol


@dataclass
class Step:
    """One step: its name, its seconds once it is over, and one line about its result."""

    name: str
    seconds: float = 0.0
    outcome: str = ""


class Listener(Protocol):
    """Receives the progress of a run."""

    def started(self, step: Step) -> None:
        """A step begins."""

    def moved(self, step: Step, done: float, text: str) -> None:
        """This share (0 to 1) of a long step is done."""

    def ended(self, step: Step) -> None:
        """A step is over; its seconds and outcome are set."""

    def warned(self, message: str) -> None:
        """A warning for the user, reported now and again in the report."""


class Silent:
    """A listener that does nothing."""

    def started(self, step: Step) -> None: ...
    def moved(self, step: Step, done: float, text: str) -> None: ...
    def ended(self, step: Step) -> None: ...
    def warned(self, message: str) -> None: ...


@dataclass
class Steps:
    """The steps and warnings of one run. ``done`` has every step that ended, in order."""

    listener: Listener = field(default_factory=Silent)
    done: list[Step] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Run a block as a step. A block that fails is not added to ``done``."""
        step = Step(name)
        self.listener.started(step)
        start = time.perf_counter()
        yield step
        step.seconds = time.perf_counter() - start
        self.done.append(step)
        self.listener.ended(step)

    def warn(self, message: str) -> None:
        """Report a warning once, now and in the report."""
        if message not in self.warnings:
            self.warnings.append(message)
            self.listener.warned(message)
