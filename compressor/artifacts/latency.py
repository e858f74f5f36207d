"""Latency rows: the subjects in turn, in one process; runtime after runtime, batch after batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from compressor.artifacts.runtimes import RUNTIMES, Asked, Kind, choose, kind_of
from compressor.exporting import to_onnx
from compressor.profiling import Conditions, Timing, measure, paired_speedup, watching
from compressor.profiling.cuda_timing import CudaCall, energy_mj
from compressor.recipe import ProfileRecipe

Row = dict[str, Any]


def latencies(
    networks: Mapping[str, nn.Module], files: Mapping[str, Path], image: Tensor, recipe: ProfileRecipe
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """One row for each batch and runtime, and notes about runtimes that were left out."""
    given = {who: _kinds(who, networks, files) for who in dict.fromkeys([*networks, *files])}
    names, left_out = choose(recipe.runtimes, recipe.precision, given)
    with TemporaryDirectory() as folder:
        if recipe.runtimes and any("file" in RUNTIMES[name].takes for name in names):
            files = in_files(networks, files, image, Path(folder))
        rows = [
            row for batch in recipe.batches for row in _batch(names, networks, files, image, batch, recipe)
        ]
    return tuple(rows), left_out


def _kinds(who: str, networks: Mapping[str, nn.Module], files: Mapping[str, Path]) -> list[Kind]:
    kinds: list[Kind] = []
    return kinds + ["network"] * (who in networks) + [kind_of(files[who]) for _ in range(who in files)]


def in_files(
    networks: Mapping[str, nn.Module], files: Mapping[str, Path], image: Tensor, folder: Path
) -> dict[str, Path]:
    """Every subject as a file; networks that are in none yet are written into ``folder``."""
    written = {
        who: to_onnx(network, image, folder / f"{who}.onnx").path
        for who, network in networks.items()
        if who not in files
    }
    return {who: {**written, **files}[who] for who in dict.fromkeys([*networks, *files])}


def _batch(
    names: tuple[str, ...],
    networks: Mapping[str, nn.Module],
    files: Mapping[str, Path],
    image: Tensor,
    batch: int,
    recipe: ProfileRecipe,
) -> Iterator[Row]:
    images = image[:1].repeat(batch, *[1] * (image.dim() - 1)).contiguous()
    asked = Asked(recipe.threads, recipe.precision, recipe.cuda_graph)
    for name in names:
        # Runtimes are not interleaved with each other: they would take each other's caches and pools of threads.
        with _threads(recipe.threads), torch.inference_mode():
            takes = RUNTIMES[name].takes
            there = {who: path for who, path in files.items() if kind_of(path) in takes}
            subjects: Mapping[str, Any] = networks if "network" in takes else there
            calls = {who: RUNTIMES[name].open(subject, images, asked) for who, subject in subjects.items()}
            if not calls:
                continue
            with watching() as watch:
                timings = measure(
                    {f"{who} in {name}": call for who, call in calls.items()},
                    samples=recipe.samples,
                    budget_s=recipe.budget_s / len(names),
                )
        own = {who: timings[f"{who} in {name}"] for who in calls}
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
    for who, timing in timings.items():
        row[who] = timing.to_dict() | _on_gpu(calls[who], len(timing.samples_ms))
    if "teacher" in timings and "student" in timings:
        row["speedup"] = paired_speedup(timings["teacher"], timings["student"]).to_dict()
    row["conditions"] = conditions.to_dict()
    return row


def _on_gpu(call: Callable[[], object], rounds: int) -> dict[str, object]:
    """What a GPU says beside the wall clock; nothing for calls that run elsewhere."""
    if not isinstance(call, CudaCall):
        return {}
    seen = call.last(rounds).to_dict()
    return {**seen, "gpu_peak_bytes": call.memory_bytes, "energy_mj": energy_mj(call)}


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
