"""Latency rows: the subjects interleaved in one process, for each runtime and batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from compressor.artifacts.runtimes import RUNTIMES, Kind, RunSettings, choose, kind_of
from compressor.exporting import to_onnx
from compressor.profiling import Conditions, Timing, measure, paired_speedup, watching
from compressor.profiling.cuda_timing import CudaCall, energy_mj
from compressor.recipe import ProfileRecipe

Row = dict[str, Any]


def latencies(
    networks: Mapping[str, nn.Module], files: Mapping[str, Path], image: Tensor, recipe: ProfileRecipe
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """One row for each batch and runtime, and notes about runtimes that were left out."""
    kinds = {subject: _kinds(subject, networks, files) for subject in dict.fromkeys([*networks, *files])}
    names, left_out = choose(recipe.runtimes, recipe.precision, kinds)
    with TemporaryDirectory() as folder:
        if recipe.runtimes and any("file" in RUNTIMES[name].takes for name in names):
            files = in_files(networks, files, image, Path(folder))
        rows = [
            row for batch in recipe.batches for row in _batch(names, networks, files, image, batch, recipe)
        ]
    return tuple(rows), left_out


def _kinds(subject: str, networks: Mapping[str, nn.Module], files: Mapping[str, Path]) -> list[Kind]:
    kinds: list[Kind] = []
    return (
        kinds
        + ["network"] * (subject in networks)
        + [kind_of(files[subject]) for _ in range(subject in files)]
    )


def in_files(
    networks: Mapping[str, nn.Module], files: Mapping[str, Path], image: Tensor, folder: Path
) -> dict[str, Path]:
    """Every subject as a file; networks without a file are written into ``folder``."""
    written = {
        subject: to_onnx(network, image, folder / f"{subject}.onnx").path
        for subject, network in networks.items()
        if subject not in files
    }
    return {subject: {**written, **files}[subject] for subject in dict.fromkeys([*networks, *files])}


def _batch(
    names: tuple[str, ...],
    networks: Mapping[str, nn.Module],
    files: Mapping[str, Path],
    image: Tensor,
    batch: int,
    recipe: ProfileRecipe,
) -> Iterator[Row]:
    images = image[:1].repeat(batch, *[1] * (image.dim() - 1)).contiguous()
    settings = RunSettings(recipe.threads, recipe.precision, recipe.cuda_graph)
    for name in names:
        # Runtimes are not interleaved with each other: they would compete for caches and thread pools.
        with _threads(recipe.threads), torch.inference_mode():
            takes = RUNTIMES[name].takes
            usable = {subject: path for subject, path in files.items() if kind_of(path) in takes}
            subjects: Mapping[str, Any] = networks if "network" in takes else usable
            calls = {
                subject: RUNTIMES[name].open(source, images, settings) for subject, source in subjects.items()
            }
            if not calls:
                continue
            with watching() as watch:
                timings = measure(
                    {f"{subject} in {name}": call for subject, call in calls.items()},
                    samples=recipe.samples,
                    budget_s=recipe.budget_s / len(names),
                )
        own = {subject: timings[f"{subject} in {name}"] for subject in calls}
        yield _row(name, batch, recipe, own, calls, watch.conditions)


def _row(
    name: str,
    batch: int,
    recipe: ProfileRecipe,
    timings: Mapping[str, Timing],
    calls: Mapping[str, Callable[[], object]],
    conditions: Conditions,
) -> Row:
    runtime = RUNTIMES[name]
    row: Row = {"runtime": name, "batch": batch, "threads": recipe.threads}
    row["precision"] = recipe.precision if "network" in runtime.takes else "as in the file"
    if runtime.cuda:
        row["cuda_graph"] = recipe.cuda_graph
    for subject, timing in timings.items():
        row[subject] = timing.to_dict() | _on_gpu(calls[subject], len(timing.samples_ms))
    if "teacher" in timings and "student" in timings:
        row["speedup"] = paired_speedup(timings["teacher"], timings["student"]).to_dict()
    row["conditions"] = conditions.to_dict()
    return row


def _on_gpu(call: Callable[[], object], rounds: int) -> dict[str, object]:
    """GPU time, peak memory and energy of a call; empty for calls that do not run on a GPU."""
    if not isinstance(call, CudaCall):
        return {}
    gpu_times = call.last(rounds).to_dict()
    return {**gpu_times, "gpu_peak_bytes": call.memory_bytes, "energy_mj": energy_mj(call)}


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
