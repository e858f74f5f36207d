"""Measure costs and latency of teacher and student, and the time of every file that ships."""

from __future__ import annotations

from dataclasses import replace

from compressor.artifacts.file_times import with_times
from compressor.artifacts.profile import costs_alike, profiled
from compressor.artifacts.write import settled
from compressor.run.state import Run


def measure(run: Run) -> Run:
    """Count and time the student beside the teacher."""
    recipe, steps = run.recipe, run.steps
    with steps.step("Profile") as step:
        pair = {name: run.networks[name] for name in ("teacher", "student")}
        paths = {name: run.folder.artifact(name, ".onnx") for name in pair}
        profile = profiled(pair, paths, run.images(1), recipe.profile)
        for name, counts in profile.counts.items():
            if counts.fallback_reason:
                steps.warn(f"{name} was counted on the CPU: {counts.fallback_reason}")
        for note in profile.notes:
            steps.warn(note)
        checks = [costs_alike(profile, name) for name in profile.file_counts]
        files = [file.artifact.path for file in run.written if file.artifact is not None]
        proofs, notes = with_times(
            run.proofs,
            files,
            run.images(1),
            recipe.profile,
            against=paths["teacher"],
            plain=paths["student"].name,
        )
        for note in notes:
            steps.warn(note)
        step.outcome = ", ".join(
            f"{row['runtime']} {row['speedup']['median']:.2f}× as fast"
            for row in profile.latency
            if row["batch"] == recipe.profile.batches[0]
        )
    written = tuple(settled(file) for file in run.written)
    return replace(run, profile=profile, proofs=tuple(proofs), written=written).proven(*checks)
