"""The progress of a run on the terminal: one line for a step, a bar for the long ones, on stderr."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from compressor.base.console import talk
from compressor.run.steps import Step


class Live:
    """A listener that shows steps on the terminal; without a terminal, finished steps only.

    The rule between calls: at most one step is open, and its bar is gone before its line is printed.
    """

    def __init__(self, opening: str = "", console: Console = talk) -> None:
        self.opening = opening  # said when the first step starts: the request was fit to be run
        self.console = console
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}", style="dim"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task: TaskID | None = None

    def __enter__(self) -> Live:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def started(self, step: Step) -> None:
        if self.opening:
            self.console.print(self.opening, style="dim", markup=False)
            self.opening = ""
        self.task = self.bar.add_task(escape(step.name), total=None, text="")

    def moved(self, step: Step, done: float, text: str) -> None:
        if self.task is not None:
            self.bar.update(self.task, total=1.0, completed=done, text=escape(text))

    def ended(self, step: Step) -> None:
        if self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None
        outcome = f"  [dim]{escape(step.outcome)}[/dim]" if step.outcome else ""
        self.console.print(f"{step.seconds:6.2f} s  {escape(step.name)}{outcome}")

    def warned(self, message: str) -> None:
        self.console.print(f"[yellow]warning:[/yellow] {escape(message)}")
