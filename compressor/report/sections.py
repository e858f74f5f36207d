"""Sections of a report from what the steps of a run returned. The values bring torch; this file does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compressor.report.report import compared

if TYPE_CHECKING:
    from compressor.cascade import Training
    from compressor.measure import Profile


def costs(profile: Profile, channels: tuple[int, int]) -> dict[str, Any]:
    """The five costs of teacher and student; latency is that of the files, which are what ships."""
    counts = profile.counts
    shipped = next(row for row in profile.latency if row["runtime"] == "onnxruntime")
    return {
        "macs": compared(counts["teacher"].macs, counts["student"].macs),
        "params": compared(counts["teacher"].params, counts["student"].params),
        "channels": compared(*channels),
        "bytes": compared(profile.file_bytes["teacher"], profile.file_bytes["student"]),
        "latency_ms": compared(shipped["teacher"]["median_ms"], shipped["student"]["median_ms"]),
    }


def layer_rows(profile: Profile) -> list[dict[str, Any]]:
    """MACs and parameters of every layer, before and after."""
    both = (profile.counts["teacher"].layers, profile.counts["student"].layers)
    return [
        {
            "name": before.name,
            "kind": before.kind,
            "macs": [before.macs, after.macs],
            "params": [before.params, after.params],
        }
        for before, after in zip(*both, strict=True)
    ]


def training_row(training: Training) -> dict[str, Any]:
    """How one network was taught."""
    trained = training.trained
    return {
        "network": training.stage.name,
        "teacher": training.teacher,
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
