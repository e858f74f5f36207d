"""Where the time goes, layer by layer, the teacher beside the student; in ONNX Runtime or TensorRT, which tell.

The two are not interleaved and the profiler is on: good for seeing which layer to cut, while whether the whole is
faster is what the latency rows say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.table import Table
from torch import Tensor, nn

from compressor.artifacts.latency import in_files
from compressor.artifacts.runtimes import KINDS, RUNTIMES, engine_for, kind_of
from compressor.errors import UsageError
from compressor.exporting import EngineLayer, engine_layers, open_session
from compressor.profiling import NodeTime, NodeTimes
from compressor.profiling.cuda_timing import CudaCall
from compressor.profiling.granule import Waste, wasteful_widths
from compressor.profiling.onnx_counts import PRODUCTS, read_model
from compressor.profiling.times_by_layer import LayerTimes, gathered, layer_times
from compressor.recipe import ProfileRecipe
from compressor.recipe.names import runtimes_named

Array = np.ndarray[Any, np.dtype[Any]]

SHOWN = 12
WARM_UP_RUNS = 10


def layer_rows(
    networks: Mapping[str, nn.Module], files: Mapping[str, Path], image: Tensor, recipe: ProfileRecipe
) -> dict[str, Any]:
    """Every layer with the milliseconds of each subject, then what was not attributed, and the whole run."""
    batch = recipe.batches[0]
    runtime = _telling(files, recipe)
    found: dict[str, LayerTimes] = {}
    wasteful: tuple[Waste, ...] = ()
    images = image[:1].repeat(batch, 1, 1, 1).numpy()
    with TemporaryDirectory() as folder:
        for who, path in in_files(networks, files, image, Path(folder)).items():
            if runtime == "tensorrt":
                found[who] = engine_times(path, images, recipe.samples)
                continue
            given = open_session(path).inputs[0]
            feed = {given.name: images.astype(given.dtype)}
            found[who] = layer_times(path, feed, threads=recipe.threads, rounds=recipe.samples)
            # Of the last subject: the student, where there are two.
            wasteful = wasteful_widths(path, side=image.shape[2:], batch=batch, threads=recipe.threads)
    times = {who: {layer.name: layer.median_ms for layer in each.layers} for who, each in found.items()}
    names = dict.fromkeys(name for each in times.values() for name in each)
    return {
        "runtime": runtime,
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


def _telling(files: Mapping[str, Path], recipe: ProfileRecipe) -> str:
    """The runtime that is asked: only two tell."""
    kinds = {kind_of(path) for path in files.values()}
    for kind in kinds - {"file", "engine"}:
        raise UsageError(
            f"where the time goes is told by ONNX Runtime and TensorRT, and not for {KINDS[kind][1]}",
            "give the ONNX file",
        )
    return "tensorrt" if "engine" in kinds or "tensorrt" in runtimes_named(recipe.runtimes) else "onnxruntime"


def engine_times(path: Path, images: Array, rounds: int) -> LayerTimes:
    """The same of an engine, or of an ONNX file as an engine; the whole runs are timed without the profiler."""
    engine = engine_for(path, len(images))
    feed = {engine.inputs[0].name: images.astype(engine.inputs[0].dtype)}
    call = CudaCall(engine.start, held=engine.bind(feed))
    for _ in range(rounds + WARM_UP_RUNS):
        call()
    graph = None if kind_of(path) == "engine" else read_model(path).graph
    layers = engine_layers(engine, feed, rounds=rounds)
    return gathered(nodes_of_engine(layers, graph, call.last(rounds).gpu_ms), graph)


def nodes_of_engine(layers: Iterable[EngineLayer], graph: Any, runs_ms: tuple[float, ...]) -> NodeTimes:
    """Each layer as the node that it is known by: the first product in it, else the first node.

    ``graph``: of the ONNX file; without it nodes are only names.
    """
    operators = {node.name: node.op_type for node in graph.node} if graph is not None else {}
    found = []
    for layer in layers:
        if not layer.samples_ms:
            continue
        known = [name for name in layer.nodes if name in operators]
        name = next((name for name in known if operators[name] in PRODUCTS), next(iter(known), None))
        if name is None and graph is None:
            name = layer.nodes[0]
        operator = operators.get(name or "", layer.kind or layer.name)
        found.append(NodeTime(name or layer.name, operator, (), layer.samples_ms))
    return NodeTimes(tuple(found), runs_ms)


def layer_table(rows: Mapping[str, Any]) -> Table:
    """The layers that take the most, the others summed, and the end: what was not attributed, and the total."""
    who = list(rows["total"])
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"layer, ms in {RUNTIMES[rows['runtime']].title}, batch {rows['batch']}")
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
