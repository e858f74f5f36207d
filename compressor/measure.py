"""What networks and files cost, side by side: counted exactly, and timed interleaved in one process.

Two subjects at most are compared, and they are called teacher and student here as everywhere; a
single one is simply measured. A network runs in PyTorch, a file in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressor.cutting.proof import Check
from compressor.recipe import ProfileRecipe
from export import open_session
from profiles import (
    Counts,
    FileCounts,
    ProfileError,
    Timing,
    count,
    count_file,
    fingerprint,
    measure,
    paired_speedup,
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Profile:
    """Counts of each network and file, a latency row for each runtime, the device; ``notes``: what was not counted."""

    counts: Mapping[str, Counts]
    file_counts: Mapping[str, FileCounts]
    file_bytes: Mapping[str, int]
    latency: tuple[Row, ...]
    device: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "counts": {name: counts.to_dict() for name, counts in self.counts.items()},
            "file_counts": {name: counts.to_dict() for name, counts in self.file_counts.items()},
            "file_bytes": dict(self.file_bytes),
            "latency": list(self.latency),
            "device": dict(self.device),
            "notes": list(self.notes),
        }


def profiled(
    networks: Mapping[str, nn.Module], files: Mapping[str, Path], image: Tensor, recipe: ProfileRecipe
) -> Profile:
    """Count all subjects for one image, and time them at the batch that the recipe says."""
    file_counts: dict[str, FileCounts] = {}
    notes: list[str] = []
    for name, path in files.items():
        try:
            file_counts[name] = count_file(path, side=image.shape[2:])
        except ProfileError as error:  # what cannot be counted can still be timed
            notes.append(str(error))
    return Profile(
        counts={name: count(network, (image[:1],)) for name, network in networks.items()},
        file_counts=file_counts,
        file_bytes={name: path.stat().st_size for name, path in files.items()},
        latency=tuple(_latencies(networks, files, image, recipe)),
        device=fingerprint(),
        notes=tuple(notes),
    )


def costs_alike(profile: Profile, name: str) -> Check:
    """The multiply-adds counted in a file against those counted in its network."""
    file, network = profile.file_counts[name].macs, profile.counts[name].macs
    return Check(
        f"{name}.onnx costs the MACs of the network",
        file == network,
        float(abs(file - network)),
        0.0,
        f"{file:,} in the file, {network:,} in the network",
    )


def _latencies(
    networks: Mapping[str, nn.Module], files: Mapping[str, Path], image: Tensor, recipe: ProfileRecipe
) -> Iterator[Row]:
    images = image[:1].repeat(recipe.batch, *[1] * (image.dim() - 1)).contiguous()
    calls = {
        "pytorch": {name: _in_pytorch(network, images) for name, network in networks.items()},
        "onnxruntime": {name: _in_onnxruntime(path, images, recipe.threads) for name, path in files.items()},
    }
    named = {(runtime, who): call for runtime, each in calls.items() for who, call in each.items()}
    with _threads(recipe.threads), torch.inference_mode():
        timings = measure(
            {f"{runtime} {who}": call for (runtime, who), call in named.items()},
            samples=recipe.samples,
            budget_s=recipe.budget_s,
        )
    for runtime, each in calls.items():
        if each:
            yield _row(runtime, recipe, {who: timings[f"{runtime} {who}"] for who in each})


def _in_pytorch(network: nn.Module, images: Tensor) -> Callable[[], object]:
    return lambda: network(images)


def _in_onnxruntime(path: Path, images: Tensor, threads: int) -> Callable[[], object]:
    session = open_session(path, threads=threads)
    feed = {session.inputs[0].name: images.numpy()}
    return lambda: session.run(feed)


def _row(runtime: str, recipe: ProfileRecipe, timings: Mapping[str, Timing]) -> Row:
    row: Row = {"runtime": runtime, "batch": recipe.batch, "threads": recipe.threads}
    row |= {who: timing.to_dict() for who, timing in timings.items()}
    if "teacher" in timings and "student" in timings:
        row["speedup"] = paired_speedup(timings["teacher"], timings["student"]).to_dict()
    return row


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
