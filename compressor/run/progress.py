"""Progress of a run: listener, log.jsonl, TensorBoard, and warnings at the end of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from compressor.data.split import Data
from compressor.pruning.graph.channels import ChannelGraph
from compressor.run.folder import RunFolder
from compressor.run.steps import Listener, Step, Steps
from compressor.run.tensorboard import Events
from compressor.training import Progress
from compressor.training.distributed.world import World

CURVE_STEPS = 10
"""Number of steps between two points of the curves."""


class Logged:
    """A listener that also writes each finished step and warning into the run's log."""

    def __init__(self, listener: Listener, run: RunFolder, world: World) -> None:
        self.listener, self.run, self.world = listener, run, world

    def started(self, step: Step) -> None:
        self.world.doing(f"`{step.name}`")
        self.listener.started(step)

    def moved(self, step: Step, done: float, text: str) -> None:
        self.world.doing(f"`{step.name}`, {text.partition(',')[0]}")
        self.listener.moved(step, done, text)

    def ended(self, step: Step) -> None:
        self.run.note({"step": step.name, "seconds": step.seconds, "outcome": step.outcome})
        self.listener.ended(step)

    def warned(self, message: str) -> None:
        self.run.note({"warning": message})
        self.listener.warned(message)


def training_progress(
    steps: Steps, step: Step, epochs: Mapping[str, int], run: RunFolder
) -> Callable[[str, Progress], None]:
    """A function that reports a training to the listener, writes each epoch to the log, and adds to the curves."""
    names, whole = list(epochs), sum(epochs.values())
    events = Events(run.events)

    def show(name: str, now: Progress) -> None:
        before = sum(epochs[each] for each in names[: names.index(name)])
        right = "" if now.accuracy is None else f", top-1 {now.accuracy:.2%}"
        steps.listener.moved(
            step,
            (before + now.done * epochs[name]) / whole,
            f"{name}: epoch {now.epoch}/{now.epochs}, loss {now.loss:.3f}, "
            f"{now.images_per_second:,.0f} images/s, {_time(now.left_s)} left{right}",
        )
        seen = {"loss": now.loss, "accuracy": now.accuracy, "images_per_second": now.images_per_second}
        if now.over:
            run.note({"training": name, "epoch": now.epoch, **seen})
        if now.over or now.step % CURVE_STEPS == 0:
            scalars = {key: value for key, value in seen.items() if value is not None}
            events.add(
                name, (now.epoch - 1) * now.steps + now.step, {**scalars, "epoch": now.done * now.epochs}
            )

    return show


def repair_progress(steps: Steps, step: Step) -> Callable[[str, float], None]:
    """A function that reports the repair of a network to the listener; the share of trainings done stays 0."""
    return lambda name, done: steps.listener.moved(step, 0.0, f"{name}: repair, {done:.0%} of its layers")


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def warn_of_unsupported(graph: ChannelGraph, steps: Steps) -> None:
    operators = sorted({item.operator for item in graph.unsupported})
    if operators:
        where = ", ".join(sorted({item.where for item in graph.unsupported})[:3])
        steps.warn(
            f"no rule for {', '.join(f'`{name}`' for name in operators)} (in {where}): left whole there"
        )


def warn_of_damage(data: Data, steps: Steps, world: World) -> None:
    """Warn of samples that could not be read during training, by name."""
    for title, half in (("to train on", data.train), ("to test", data.test)):
        bad = list(dict.fromkeys(each for found in world.gathered(half.bad) for each in found))
        if bad:
            first = "; ".join(str(each) for each in bad[:3])
            more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
            steps.warn(f"{len(bad)} samples {title} could not be read: {first}{more}")
