"""Does this teacher help at all? The student is trained for a while with and without it.

There are teachers that are right and yet ruin who learns from them, some of them on purpose (Ma et al. 2021, the nasty
teacher). Looking at them does not tell; a short training does.
"""

from __future__ import annotations

import math
from dataclasses import replace

from compressor.methods.start import begun
from compressor.methods.task import Task, taught
from compressor.recipe.distilling import PROBES

DEVIATIONS = 2.0
"""How far apart two shares of the test set must lie, in standard deviations of their difference, to be called so."""


def probed(task: Task) -> str | None:
    """A warning if the student learns less from its teacher than from the labels alone, or cannot be told apart."""
    asked = task.distilling
    start = begun(task)
    schedule = replace(
        asked.schedule,
        epochs=asked.probe,
        warmup_epochs=min(asked.schedule.warmup_epochs, asked.probe / 2),
        test_every=asked.probe,
    )
    right = []
    for name, guides in zip(PROBES, ((task.guide,), ()), strict=True):
        stage = replace(task.student, name=name)
        right.append(taught(task, stage, start, schedule, guides).accuracy)
    return verdict(right[0], right[1], len(task.data.test), asked.probe, task.guide.name)


def verdict(with_it: float, without: float, tested: int, epochs: int, name: str) -> str | None:
    """What two shares of the test set say of the teacher."""
    apart = without - with_it
    pooled = (with_it + without) / 2
    if apart <= DEVIATIONS * math.sqrt(2 * pooled * (1 - pooled) / tested):
        return None
    return (
        f"`{name}` teaches worse than none: after {epochs} epochs the student is right on {with_it:.2%} with it, "
        f"{without:.2%} by labels alone; try another teacher, a lower distil.schedule.teacher_weight or `finetune`"
    )
