"""Times of every layer, teacher and student side by side; in ONNX Runtime or TensorRT, which have a profiler.

The two networks are not interleaved and the profiler is on: use these times to see which layer to cut. Only the
latency rows tell whether the whole network is faster.
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
    """Every layer with the milliseconds of each subject, the time of no known layer, and the whole run."""
    batch = recipe.batches[0]
    runtime = _profiling_runtime(files, recipe)
    measured: dict[str, LayerTimes] = {}
    wasteful: tuple[Waste, ...] = ()
    images = image[:1].repeat(batch, 1, 1, 1).numpy()
    with TemporaryDirectory() as folder:
        for who, path in in_files(networks, files, image, Path(folder)).items():
            if runtime == "tensorrt":
                measured[who] = engine_times(path, images, recipe.samples)
                continue
            network_input = open_session(path).inputs[0]
            feed = {network_input.name: images.astype(network_input.dtype)}
            measured[who] = layer_times(path, feed, threads=recipe.threads, rounds=recipe.samples)
            # The last subject counts: the student, where there are two.
            wasteful = wasteful_widths(path, side=image.shape[2:], batch=batch, threads=recipe.threads)
    times = {who: {layer.name: layer.median_ms for layer in own.layers} for who, own in measured.items()}
    names = dict.fromkeys(name for by_layer in times.values() for name in by_layer)
    return {
        "runtime": runtime,
        "batch": batch,
        "threads": recipe.threads,
        "rounds": recipe.samples,
        "layers": [
            {"layer": name, **{who: by_layer[name] for who, by_layer in times.items() if name in by_layer}}
            for name in names
        ],
        "not_attributed": {who: own.not_attributed_ms for who, own in measured.items()},
        "total": {who: own.total_ms for who, own in measured.items()},
        "wasteful_widths": [waste.to_dict() for waste in wasteful],
    }


def _profiling_runtime(files: Mapping[str, Path], recipe: ProfileRecipe) -> str:
    """The runtime that times the layers: only ONNX Runtime and TensorRT have a profiler."""
    kinds = {kind_of(path) for path in files.values()}
    for kind in kinds - {"file", "engine"}:
        raise UsageError(
            f"cannot time the layers of {KINDS[kind][1]}: ONNX Runtime and TensorRT time layers",
            "give the ONNX file",
        )
    return "tensorrt" if "engine" in kinds or "tensorrt" in runtimes_named(recipe.runtimes) else "onnxruntime"


def engine_times(path: Path, images: Array, rounds: int) -> LayerTimes:
    """Layer times of an engine, or of an ONNX file as an engine; whole runs are timed without the profiler."""
    engine = engine_for(path, len(images))
    feed = {engine.inputs[0].name: images.astype(engine.inputs[0].dtype)}
    call = CudaCall(engine.start, held=engine.bind(feed))
    for _ in range(rounds + WARM_UP_RUNS):
        call()
    graph = None if kind_of(path) == "engine" else read_model(path).graph
    layers = engine_layers(engine, feed, rounds=rounds)
    return gathered(nodes_of_engine(layers, graph, call.last(rounds).gpu_ms), graph)


def nodes_of_engine(layers: Iterable[EngineLayer], graph: Any, runs_ms: tuple[float, ...]) -> NodeTimes:
    """Each engine layer as one ONNX node: the first product among its nodes, else its first node.

    ``graph``: the graph of the ONNX file; without it only the names of the nodes are known.
    """
    operators = {node.name: node.op_type for node in graph.node} if graph is not None else {}
    nodes = []
    for layer in layers:
        if not layer.samples_ms:
            continue
        known = [name for name in layer.nodes if name in operators]
        name = next((name for name in known if operators[name] in PRODUCTS), next(iter(known), None))
        if name is None and graph is None:
            name = layer.nodes[0]
        operator = operators.get(name or "", layer.kind or layer.name)
        nodes.append(NodeTime(name or layer.name, operator, (), layer.samples_ms))
    return NodeTimes(tuple(nodes), runs_ms)


def layer_table(rows: Mapping[str, Any]) -> Table:
    """A table of the slowest layers, the sum of the others, the time of no known layer, and the total."""
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
