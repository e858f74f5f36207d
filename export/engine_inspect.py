"""Layers of a TensorRT engine: the nodes of the ONNX file that each computes, its kernel, and its time.

Names and kernels come from the engine inspector (engines are built with the details that it needs), times from the
profiler. It puts events around every layer, so together the layers take longer than a run without the profiler.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from compressor.exporting.engine_session import Engine

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

WARM_UP_RUNS = 3
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


@dataclass(frozen=True)
class EngineLayer:
    """One layer. ``nodes``: ONNX nodes that it computes; ``formats``: of its outputs, such as
    "Half NHWC8"; ``samples_ms``: one for every run, empty for a layer that never runs."""

    name: str
    kind: str = ""
    nodes: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    kernel: str = ""
    samples_ms: tuple[float, ...] = field(default=(), repr=False)

    @property
    def median_ms(self) -> float | None:
        return median(self.samples_ms) if self.samples_ms else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "kind": self.kind,
            "nodes": list(self.nodes),
            "formats": list(self.formats),
            "kernel": self.kernel,
            "median_ms": self.median_ms,
        }


def engine_layers(
    engine: Engine, arrays: Mapping[str, Array], *, rounds: int = 20
) -> tuple[EngineLayer, ...]:
    """List the layers in the order of execution, timed in ``rounds`` runs on these inputs."""
    inspector = engine.engine.create_engine_inspector()
    layers = described(inspector.get_engine_information(engine.library.LayerInformationFormat.JSON))
    return timed(layers, _profiled(engine.with_context(), arrays, rounds))


def described(information: str) -> tuple[EngineLayer, ...]:
    """Parse the inspector's JSON into layers; an engine built without details has only their names."""
    return tuple(_layer(layer) for layer in json.loads(information).get("Layers", ()))


def _layer(entry: str | Mapping[str, Any]) -> EngineLayer:
    if isinstance(entry, str):
        return EngineLayer(entry, nodes=_nodes_in_name(entry))
    name = str(entry.get("Name", ""))
    nodes = tuple(dict.fromkeys(_NODE.findall(str(entry.get("Metadata", "")))))
    formats = (str(output.get("Format/Datatype", "")) for output in entry.get("Outputs", ()))
    return EngineLayer(
        name,
        str(entry.get("LayerType", "")),
        nodes or _nodes_in_name(name),
        tuple(filter(None, formats)),
        str(entry.get("TacticName", "")),
    )


def _nodes_in_name(name: str) -> tuple[str, ...]:
    """Nodes in the name of a layer without details, which TensorRT joins by a plus sign."""
    return tuple(name.split(" + "))


def timed(layers: tuple[EngineLayer, ...], runs: list[list[tuple[str, float]]]) -> tuple[EngineLayer, ...]:
    """``layers`` with their times; layers that were timed but not described come last."""
    samples: dict[str, list[float]] = {}
    for index, run in enumerate(runs):
        for name, ms in run:
            layer_samples = samples.setdefault(name, [0.0] * len(runs))
            layer_samples[index] += ms  # a layer may run more than once
    known = {layer.name for layer in layers}
    others = (EngineLayer(name, nodes=_nodes_in_name(name)) for name in samples if name not in known)
    return tuple(
        replace(layer, samples_ms=tuple(samples.get(layer.name, ()))) for layer in (*layers, *others)
    )


def _profiled(engine: Engine, arrays: Mapping[str, Array], rounds: int) -> list[list[tuple[str, float]]]:
    """Layer names and milliseconds that the profiler reports for each run."""
    import torch

    class Profiler(engine.library.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            engine.library.IProfiler.__init__(self)
            self.runs: list[list[tuple[str, float]]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.runs[-1].append((layer_name, float(ms)))

    profiler = Profiler()
    engine.context.profiler = profiler
    tensors = engine.bind(arrays)  # kept alive: the engine only has their addresses
    for _ in range(WARM_UP_RUNS + rounds):
        profiler.runs.append([])
        engine.start()
        torch.cuda.current_stream().synchronize()
    del tensors
    return profiler.runs[WARM_UP_RUNS:]
