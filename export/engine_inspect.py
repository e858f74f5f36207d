"""The layers of an engine as TensorRT made them: which nodes of the ONNX file each is, its kernel, and its time.

Names and kernels come from the engine inspector (engines are built so that it knows them), times from the profiler,
which puts events around every layer: together they take longer than a run without it.
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
    """One layer. ``nodes``: those of the ONNX file that it computes; ``formats``: of what it writes, as in
    "Half NHWC8"; ``samples_ms``: one for every run, none of what never runs."""

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
    """The layers in the order of execution, timed in ``rounds`` runs over these inputs."""
    inspector = engine.engine.create_engine_inspector()
    layers = described(inspector.get_engine_information(engine.library.LayerInformationFormat.JSON))
    return timed(layers, _profiled(engine.with_context(), arrays, rounds))


def described(information: str) -> tuple[EngineLayer, ...]:
    """The layers that the inspector tells of, in JSON; an engine built without details has names alone."""
    return tuple(_layer(each) for each in json.loads(information).get("Layers", ()))


def _layer(told: str | Mapping[str, Any]) -> EngineLayer:
    if isinstance(told, str):
        return EngineLayer(told, nodes=_named(told))
    name = str(told.get("Name", ""))
    nodes = tuple(dict.fromkeys(_NODE.findall(str(told.get("Metadata", "")))))
    formats = (str(each.get("Format/Datatype", "")) for each in told.get("Outputs", ()))
    return EngineLayer(
        name,
        str(told.get("LayerType", "")),
        nodes or _named(name),
        tuple(filter(None, formats)),
        str(told.get("TacticName", "")),
    )


def _named(name: str) -> tuple[str, ...]:
    """A layer without details is called after its nodes."""
    return tuple(name.split(" + "))


def timed(layers: tuple[EngineLayer, ...], runs: list[list[tuple[str, float]]]) -> tuple[EngineLayer, ...]:
    """``layers`` with their times; what was timed and not described stands at the end."""
    samples: dict[str, list[float]] = {}
    for index, run in enumerate(runs):
        for name, ms in run:
            own = samples.setdefault(name, [0.0] * len(runs))
            own[index] += ms  # a layer may run more than once
    known = {layer.name for layer in layers}
    others = (EngineLayer(name, nodes=_named(name)) for name in samples if name not in known)
    return tuple(
        replace(layer, samples_ms=tuple(samples.get(layer.name, ()))) for layer in (*layers, *others)
    )


def _profiled(engine: Engine, arrays: Mapping[str, Array], rounds: int) -> list[list[tuple[str, float]]]:
    """What the profiler reports of each run."""
    import torch

    class Profiler(engine.library.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            engine.library.IProfiler.__init__(self)
            self.runs: list[list[tuple[str, float]]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.runs[-1].append((layer_name, float(ms)))

    profiler = Profiler()
    engine.context.profiler = profiler
    held = engine.bind(arrays)
    for _ in range(WARM_UP_RUNS + rounds):
        profiler.runs.append([])
        engine.start()
        torch.cuda.current_stream().synchronize()
    del held
    return profiler.runs[WARM_UP_RUNS:]
