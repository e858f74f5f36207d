"""Costs of networks and files, side by side: counted exactly, and timed interleaved in one process.

At most two subjects are compared; they are called teacher and student. A single one is only measured.
``latency`` has the times of whole runs, ``layers`` those of each layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compressor.artifacts.latency import Row, latencies
from compressor.artifacts.runtimes import KINDS, kind_of
from compressor.base.checks import Check
from compressor.errors import ProfileError
from compressor.profiling import Counts, FileCounts, count, count_file, fingerprint
from compressor.recipe import ProfileRecipe


@dataclass(frozen=True)
class Profile:
    """Counts of each network and file, a latency row for each batch and runtime, and the device.

    ``notes``: everything that was not counted or not measured, with the reason.
    """

    counts: Mapping[str, Counts]
    file_counts: Mapping[str, FileCounts]
    file_bytes: Mapping[str, int]
    latency: tuple[Row, ...]
    device: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    layers: Mapping[str, Any] | None = None
    """Times of every layer, if requested (`compressor.artifacts.layer_times`)."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "counts": {name: counts.to_dict() for name, counts in self.counts.items()},
            "file_counts": {name: counts.to_dict() for name, counts in self.file_counts.items()},
            "file_bytes": dict(self.file_bytes),
            "latency": list(self.latency),
            "device": dict(self.device),
            "notes": list(self.notes),
            "layers": None if self.layers is None else dict(self.layers),
        }


def profiled(
    networks: Mapping[str, nn.Module], files: Mapping[str, Path], image: Tensor, recipe: ProfileRecipe
) -> Profile:
    """Count all subjects for one image, and time them in the runtimes and batches of the recipe."""
    file_counts: dict[str, FileCounts] = {}
    notes: list[str] = []
    for name, path in files.items():
        if kind_of(path) != "file":
            notes.append(
                f"`{path}` is {KINDS[kind_of(path)][0]}, which cannot be counted; count its ONNX file instead"
            )
            continue
        try:
            file_counts[name] = count_file(path, side=image.shape[2:])
        except ProfileError as error:  # a file that cannot be counted can still be timed
            notes.append(str(error))
    rows, left_out = latencies(networks, files, image, recipe)
    return Profile(
        counts={name: count(network, (image[:1],)) for name, network in networks.items()},
        file_counts=file_counts,
        file_bytes={name: path.stat().st_size for name, path in files.items()},
        latency=rows,
        device=fingerprint(),
        notes=(*notes, *left_out),
    )


def costs_alike(profile: Profile, name: str) -> Check:
    """Check that the MACs counted in a file equal those counted in its network."""
    file, network = profile.file_counts[name].macs, profile.counts[name].macs
    return Check(
        f"{name}.onnx costs the MACs of the network",
        file == network,
        float(abs(file - network)),
        0.0,
        f"{file:,} in the file, {network:,} in the network",
    )
