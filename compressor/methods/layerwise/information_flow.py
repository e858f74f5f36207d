"""Information flow (Passalis et al. 2020): a student learns how its teacher's layers arrange images, through an
auxiliary teacher that resembles it.

PKT compares how the images of a batch lie to each other, so widths and kinds of networks need not agree. In the first
epochs layers inside count most (the critical period, in which connections form); soon only the embedding does.
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
"""What a layer inside counts in epoch k: 100 · 0.7^k (equation 10); the embedding counts 1."""
FORM = "code"
"""PKT as its authors released it, to which these weights belong.

The paper's sums are as many times larger as a batch has images: beside labels they leave little of what a student that
was cut knows (built-in pair, 8 epochs: 89.9 instead of 95.9 %).
"""


def information_flow(task: Task) -> tuple[Training, ...]:
    """The teacher teaches the last assistant by its embedding, and that one the student by all of its stages.

    The assistant also follows answers and labels as the schedule says, the student labels alone; with a
    ``teacher_loss`` of none both do as the schedule says.
    """
    if len(task.path) < 2:
        raise UsageError(
            "method `information-flow` teaches through an auxiliary network, and none stands between",
            "remove more, or choose kd",
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
    """Labels alone, unless the schedule says already what is to count beside losses on layers."""
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
