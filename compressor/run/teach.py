"""Repair the student, train it by the recipe's method, and count its costs."""

from __future__ import annotations

from dataclasses import replace

import torch

from compressor.artifacts.promises import counted
from compressor.base.checks import Check, require
from compressor.methods import Task, Training, method_named
from compressor.methods.quantise_aware import in_eight_bits
from compressor.recipe.distilling import TEACHER_NONE
from compressor.recipe.repair import Repairing
from compressor.run.progress import repair_progress, training_progress, warn_of_damage
from compressor.run.state import Run
from compressor.run.steps import Step
from compressor.run.teacher import keep_teacher


def teach(run: Run) -> Run:
    """Train all networks of the method; the student's training is the last."""
    recipe, steps = run.recipe, run.steps
    with steps.step("Repair and distil") as step:
        keep_teacher(recipe, run.teacher, run.folder.checkpoints("teacher"))
        task = _task(run, step)
        trainings = method_named(recipe.distil.method)(task)
        if recipe.distil.quantise_aware_epochs:
            last, told = in_eight_bits(task, trainings[-1], recipe.export.int8_weight_bits)
            trainings = (*trainings[:-1], last)
            steps.warn(told)
        run = replace(run, trainings=trainings)
        _warn(run)
        image = torch.zeros(1, *run.data.shape)
        count = counted(run.student.trained.network.cpu(), run.student.stage.plan, image)
        require((count,))
        step.outcome = " → ".join(
            f"{training.stage.name} {training.trained.accuracy:.2%}" for training in trainings
        )
    return run.proven(count, *_start_checks(trainings), **_accuracies(run))


def _task(run: Run, step: Step) -> Task:
    recipe, origin = run.recipe, run.origin
    epochs = recipe.distil.trainings([stage.name for stage in origin.stages])
    return Task(
        run.teacher.network,
        run.guide,
        run.graph,
        origin.scores,
        recipe.budget,
        origin.stages,
        recipe.distil,
        run.data,
        recipe.seed,
        run.world.device,
        run.folder.checkpoints,
        training_progress(run.steps, step, epochs, run.folder),
        given=None if origin.is_cut else origin.network,
        auxiliary=origin.auxiliary,
        # A repair is useless without a teacher: the cut network has random weights.
        repairing=Repairing(0) if recipe.distil.teacher == TEACHER_NONE else recipe.repair,
        repairs=repair_progress(run.steps, step),
    )


def _warn(run: Run) -> None:
    for training in run.trainings:
        for warning in (*training.start.warnings, *training.trained.warnings):
            run.steps.warn(f"{training.stage.name}: {warning}")
    warn_of_damage(run.data, run.steps, run.world)


def _start_checks(trainings: tuple[Training, ...]) -> list[Check]:
    return [
        replace(
            check,
            name=f"{training.stage.name} from {training.teacher}: {check.name}",
            network=training.stage.name,
        )
        for training in trainings
        for check in training.start.checks
    ]


def _accuracies(run: Run) -> dict[str, float]:
    top1 = {"student": run.student.trained.accuracy}
    repaired = next((each.start for each in reversed(run.trainings) if each.start.repair), None)
    if run.repair and repaired and repaired.accuracy is not None:
        top1 = {"repaired": repaired.accuracy, **top1}
    return top1
