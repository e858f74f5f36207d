"""Where the time goes, layer by layer, the teacher beside the student; in ONNX Runtime, which tells.

The two are not interleaved and the profiler is on: good for seeing which layer to cut, while whether the whole is
faster is what the latency rows say.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.table import Table
from torch import Tensor, nn

from compressor.latency import in_files
from compressor.recipe import ProfileRecipe
from export import open_session
from profiles.granule import Waste, wasteful_widths
from profiles.layers import LayerTimes, layer_times

SHOWN = 12


def layer_rows(
    networks: Mapping[str, nn.Module], files: Mapping[str, Path], image: Tensor, recipe: ProfileRecipe
) -> dict[str, Any]:
    """Every layer with the milliseconds of each subject, then what was not attributed, and the whole run."""
    batch = recipe.batches[0]
    found: dict[str, LayerTimes] = {}
    wasteful: tuple[Waste, ...] = ()
    with TemporaryDirectory() as folder:
        for who, path in in_files(networks, files, image, Path(folder)).items():
            given = open_session(path).inputs[0]
            images = image[:1].repeat(batch, 1, 1, 1).numpy().astype(given.dtype)
            found[who] = layer_times(
                path, {given.name: images}, threads=recipe.threads, rounds=recipe.samples
            )
            # Of the last subject: the student, where there are two.
            wasteful = wasteful_widths(path, side=image.shape[2:], batch=batch, threads=recipe.threads)
    times = {who: {layer.name: layer.median_ms for layer in each.layers} for who, each in found.items()}
    names = dict.fromkeys(name for each in times.values() for name in each)
    return {
        "runtime": "onnxruntime",
        "batch": batch,
        "threads": recipe.threads,
        "rounds": recipe.samples,
        "layers": [
            {"layer": name, **{who: each[name] for who, each in times.items() if name in each}}
            for name in names
        ],
        "not_attributed": {who: each.not_attributed_ms for who, each in found.items()},
        "total": {who: each.total_ms for who, each in found.items()},
        "wasteful_widths": [each.to_dict() for each in wasteful],
    }


def layer_table(rows: Mapping[str, Any]) -> Table:
    """The layers that take the most, the others summed, and the end: what was not attributed, and the total."""
    who = list(rows["total"])
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"layer, ms in ONNX Runtime, batch {rows['batch']}")
    for name in who if len(who) == 1 else [*who, "saved"]:
        table.add_column("ms" if len(who) == 1 else name, justify="right")
    ranked = sorted(rows["layers"], key=lambda row: max(row.get(name, 0.0) for name in who), reverse=True)
    top = {row["layer"] for row in ranked[:SHOWN]}
    for row in rows["layers"]:
        if row["layer"] in top:
            table.add_row(row["layer"], *_cells(row, who))
    others = [row for row in rows["layers"] if row["layer"] not in top]
    if others:
        summed = {name: sum(row.get(name, 0.0) for row in others) for name in who}
        table.add_row(f"{len(others)} other layers", *_cells(summed, who))
    table.add_row("not attributed", *_cells(rows["not_attributed"], who))
    table.add_row("the whole run", *_cells(rows["total"], who), style="bold")
    return table


def _cells(row: Mapping[str, Any], who: list[str]) -> list[str]:
    cells = [f"{row[name]:.3f}" if name in row else "–" for name in who]
    if len(who) == 2:
        before, after = (row.get(name, 0.0) for name in who)
        cells.append(f"{before - after:+.3f}")
    return cells
