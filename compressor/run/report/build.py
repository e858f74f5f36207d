"""The report of a finished run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.artifacts.write import engine_rows
from compressor.pruning.cutting import FORMS, form_of
from compressor.run.report.report import Report
from compressor.run.report.sections import artifact_rows, costs, layer_rows, repair_row, training_row

if TYPE_CHECKING:
    from compressor.run.state import Run


def report_of(run: Run) -> Report:
    """Build the report: request, costs, accuracies, trainings, checks, files and environment."""
    recipe, origin, data, plan = run.recipe, run.origin, run.data, run.student.stage.plan
    return Report(
        request=origin.request,
        model={
            "name": recipe.model.name,
            "origin": run.teacher.origin,
            "classes": len(data.classes),
            "form": origin.form or FORMS[form_of(run.networks["student"])],
        },
        data={"name": data.name, "train": len(data.train), "test": len(data.test), "shape": list(data.shape)},
        saliency=origin.scores.to_dict() if origin.is_cut else {},
        cost=costs(run.profile, plan.costs["channels"]),
        accuracy={"metric": "top-1", **run.accuracy},
        latency=run.profile.latency,
        trainings=[training_row(training) for training in run.trainings],
        repairs=[repair_row(training) for training in run.trainings if training.start.repair],
        widths={name: list(pair) for name, pair in plan.widths.items()},
        layers=layer_rows(run.profile, run.graph, plan) if origin.is_cut else [],
        not_cut=[{"name": group.name, "reason": group.frozen} for group in run.graph.frozen],
        checks=[check.to_dict() for check in run.checks],
        proofs=[proof.to_dict() for proof in run.proofs],
        artifacts=artifact_rows(run.written, run.folder.path),
        steps=[{"name": step.name, "seconds": round(step.seconds, 3)} for step in run.steps.done],
        environment={
            **run.profile.device,
            "device": str(run.world.device),
            "precision": run.student.trained.precision.name,
        },
        warnings=[*run.steps.warnings],
        folder=str(run.folder.path),
        fit=origin.fit,
        engines=engine_rows(run.written),
    )
