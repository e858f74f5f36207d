"""Sections of a report from the results of the steps of a run. This file does not import torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.artifacts.runtimes import RUNTIMES
from compressor.run.report.report import compared

if TYPE_CHECKING:
    from compressor.artifacts.profile import Profile
    from compressor.artifacts.write import Written
    from compressor.methods import Training
    from compressor.pruning.graph.channels import ChannelGraph, Factor
    from compressor.pruning.widths.plan import Plan


def costs(profile: Profile, channels: tuple[int, int]) -> dict[str, Any]:
    """The costs of teacher and student; latency is that of the files, because they ship, if they were timed."""
    counts = profile.counts
    rows = sorted(profile.latency, key=lambda row: RUNTIMES[row["runtime"]].takes[0] != "file")
    shipped = rows[0]
    return {
        "macs": compared(counts["teacher"].macs, counts["student"].macs),
        "params": compared(counts["teacher"].params, counts["student"].params),
        "channels": compared(*channels),
        "activation_bytes": compared(counts["teacher"].activation_bytes, counts["student"].activation_bytes),
        "bytes": compared(profile.file_bytes["teacher"], profile.file_bytes["student"]),
        "latency_ms": compared(shipped["teacher"]["median_ms"], shipped["student"]["median_ms"]),
    }


def layer_rows(profile: Profile, graph: ChannelGraph, plan: Plan) -> list[dict[str, Any]]:
    """MACs and parameters of every layer, before and after: as counted, if both networks have the same layers.

    A program has no layers to count; its rows are computed from the plan (the totals are checked).
    """
    before, after = (profile.counts[name].layers for name in ("teacher", "student"))
    if [layer.name for layer in before] != [layer.name for layer in after]:
        return _planned_rows(graph, plan)
    return [
        {
            "name": old.name,
            "kind": old.kind,
            "macs": [old.macs, new.macs],
            "params": [old.params, new.params],
        }
        for old, new in zip(before, after, strict=True)
    ]


def _planned_rows(graph: ChannelGraph, plan: Plan) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for side in (0, 1):
        widths = [plan.widths[group.name][side] for group in graph.groups]

        def product(factors: Sequence[Factor], widths: Sequence[int] = widths) -> int:
            return math.prod(factor.at(widths) for factor in factors)

        for layer in graph.layers:
            row = rows.setdefault(
                layer.name, {"name": layer.name, "kind": layer.kind, "macs": [0, 0], "params": [0, 0]}
            )
            row["macs"][side] += layer.positions * product(layer.factors)
        for parameter in graph.parameters:
            path = parameter.name.rpartition(".")[0]
            row = rows.setdefault(path, {"name": path, "kind": "weights", "macs": [0, 0], "params": [0, 0]})
            row["params"][side] += product(parameter.factors)
    return list(rows.values())


def training_row(training: Training) -> dict[str, Any]:
    """The training of one network."""
    trained = training.trained
    return {
        "network": training.stage.name,
        "teacher": training.teacher,
        "ships": training.ships,
        "macs_removed": training.stage.plan.removed("macs"),
        "epochs": trained.epochs,
        "accuracy": trained.accuracy,
        "best_accuracy": trained.best_accuracy,
        "images_per_second": round(trained.images_per_second),
        "seconds": round(sum(epoch.seconds for epoch in trained.history), 3),
        "resumed_from": trained.resumed_from,
        "losses": [epoch.loss for epoch in trained.history],
        "accuracies": [epoch.accuracy for epoch in trained.history],
    }


def repair_row(training: Training) -> dict[str, Any]:
    """The repair that a network began with."""
    repair = training.start.repair or {}
    return {"network": training.stage.name, "accuracy": training.start.accuracy, **repair}


def artifact_rows(files: Iterable[Written], folder: Path) -> list[dict[str, Any]]:
    """The files that were written, with paths relative to the run folder."""
    return [file.artifact.to_dict(relative_to=folder) for file in files if file.artifact is not None]
