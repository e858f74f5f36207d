"""Quantisation-aware training: a few more epochs by the same teacher, with the rounding of the INT8 file.

Prune, distil, quantise: the student recovers accuracy lost to INT8 before the file is written. The float32 student is
returned after this training; its INT8 file gains accuracy.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from compressor.exporting.int8 import WEIGHT_STEPS
from compressor.methods.start import Start
from compressor.methods.task import Task, Training, taught
from compressor.recipe.distilling import EIGHT_BITS
from compressor.training import accuracy
from compressor.training.fake_int8 import can_round, rounding, without_rounding

SLOWER = 0.05
"""Factor on the schedule's learning rate: the student is trained already."""
CALIBRATION_BATCHES, CALIBRATION_IMAGES = 4, 32


def in_eight_bits(task: Task, training: Training, weight_bits: int) -> tuple[Training, str]:
    """The student's training extended by the quantisation-aware epochs, and a sentence about their effect."""
    asked, before = task.distilling, training.trained.network
    if not can_round(before):
        return training, (
            "distil.quantise_aware_epochs was ignored: the student is a program, whose layers cannot be rounded"
        )
    batches = islice(task.data.train.batches(CALIBRATION_IMAGES, shuffle=task.seed), CALIBRATION_BATCHES)
    rounded = rounding(before, [batch.images for batch in batches], WEIGHT_STEPS[weight_bits])
    first = accuracy(rounded, task.data.test, device=task.device)
    schedule = replace(
        asked.schedule,
        epochs=asked.quantise_aware_epochs,
        learning_rate=asked.schedule.learning_rate * SLOWER,
        warmup_epochs=0.0,
        compile=False,  # torch.compile does not support the rounding
    )
    guides = (task.guide,) if asked.asks_teacher else ()
    trained = taught(task, replace(training.stage, name=EIGHT_BITS), Start(rounded), schedule, guides)
    student = without_rounding(trained.network, before).to(task.device).eval()
    right = accuracy(student, task.data.test, device=task.device)
    told = (
        f"quantisation-aware training, {trained.epochs} epochs: top-1 in simulated INT8 {first:.2%} before and "
        f"{trained.accuracy:.2%} after, in float32 {training.trained.accuracy:.2%} before and {right:.2%} after"
    )
    whole = replace(
        training.trained,
        network=student,
        history=(
            *training.trained.history,
            *trained.history[:-1],
            replace(trained.history[-1], accuracy=right),
        ),
        warnings=(*training.trained.warnings, *trained.warnings),
    )
    return replace(training, trained=whole), told
