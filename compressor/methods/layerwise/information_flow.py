"""Information flow (Passalis et al. 2020): a student learns the similarities of images in its teacher's layers,
through an auxiliary teacher of similar architecture.

PKT compares the similarities of the images of a batch, so widths and kinds of networks need not agree. In the first
epochs inner layers have the largest weight (the critical period, in which connections form), later the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compressor.errors import UsageError
from compressor.methods.layerwise.layer_pairs import compared_layers
from compressor.methods.start import cut_and_repaired, given
from compressor.methods.task import Task, Training, taught
from compressor.recipe.schedule import NO_ANSWERS
from compressor.training import Guide, Schedule
from compressor.training.layer_outputs import EMBEDDING

INITIAL, DECAY = 100.0, 0.7
"""Weight of an inner layer in epoch k: 100 · 0.7^k (equation 10); the embedding has weight 1."""
FORM = "code"
"""PKT as in its authors' code, for which these weights are made.

The paper's sums are larger by the number of images of a batch: with labels beside them a cut student loses much of
its accuracy (built-in pair, 8 epochs: 89.9 instead of 95.9 %).
"""


def information_flow(task: Task) -> tuple[Training, ...]:
    """The teacher trains the last assistant by its embedding; the assistant trains the student by all of its stages.

    The assistant also learns from logits and labels as in the schedule, the student from labels alone; with
    ``teacher_loss`` none, both follow the schedule.
    """
    if len(task.path) < 2:
        raise UsageError(
            "method `information-flow` needs an assistant between teacher and student, and there is none",
            "set distil.assistants to 1 or more, or choose the method kd",
        )
    asked, stage = task.distilling, task.path[-2]
    start = given(task.auxiliary) or cut_and_repaired(task.teacher, stage.plan, task, stage.name)
    schedule = asked.schedule_of(stage.name)
    first = taught(task, stage, start, schedule, (task.guide,), more=(last_loss(),))
    begins = given(task.given) or cut_and_repaired(
        first.network, task.student.plan.within(stage.plan), task, task.student.name
    )
    student = begins.network
    guide = Guide(stage.name, first.network, first.accuracy)
    losses = flow_losses(compared_layers(task, student, first.network))
    second = taught(task, task.student, begins, without_answers(asked.schedule), (guide,), more=losses)
    return (
        Training(stage, task.guide.name, first, start),
        Training(task.student, stage.name, second, begins),
    )


def without_answers(schedule: Schedule) -> Schedule:
    """The schedule without a loss on logits; unchanged if its ``teacher_loss`` is none already."""
    if schedule.teacher_loss == NO_ANSWERS:
        return schedule
    return replace(schedule, teacher_loss=NO_ANSWERS, teacher_weight=0.0)


def flow_losses(pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """PKT at each of these layers and at the embedding, as lines of ``distil.losses``."""
    inside = (
        f"pkt={INITIAL:g}, decay={DECAY:g}, layers={mine}/{theirs}, form={FORM}" for mine, theirs in pairs
    )
    return (*inside, last_loss())


def last_loss() -> str:
    """PKT at the embedding alone."""
    return f"pkt=1, layers={EMBEDDING}, form={FORM}"
