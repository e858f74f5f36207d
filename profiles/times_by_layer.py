"""Times of an ONNX file by layer: the sums over each layer's nodes, and the remaining time.

A node belongs to the module whose weight it reads, else to the module that the exporter noted on it, else to itself:
files of other exporters are reported by the names of their nodes. A runtime runs other nodes than the file has. A
fused node is identified by the tensor that it writes, and counted for the layer of its product; a node that the
runtime inserts to convert a layout belongs to no layer, and is reported by its operator in brackets.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.profiling.nodes import NodeTime, NodeTimes, node_times
from compressor.profiling.onnx_counts import PRODUCTS, read_model
from compressor.profiling.timing import quantile

if TYPE_CHECKING:
    import numpy as np

SCOPES = "pkg.torch.onnx.name_scopes"
# Parts that ONNX Runtime appends to the name of a tensor or a node when it makes another node from it.
MARKS = ("_nchwc", "/QuickGeluFusion/", "_token_")


@dataclass(frozen=True)
class LayerTime:
    """One layer: the operators that ran for it, and the median of their total time in a run."""

    name: str
    operators: tuple[str, ...]
    median_ms: float


@dataclass(frozen=True)
class LayerTimes:
    """Layers in the order of their first node. They and ``not_attributed_ms`` sum to ``total_ms``, the median run."""

    layers: tuple[LayerTime, ...]
    not_attributed_ms: float
    total_ms: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def layer_times(
    path: Path, feed: Mapping[str, np.ndarray[Any, Any]], *, threads: int = 1, rounds: int = 20
) -> LayerTimes:
    """Time each layer of a file. The profiler is on, so the sum is not the time of the network without it."""
    return gathered(node_times(path, feed, threads=threads, rounds=rounds), read_model(path).graph)


def gathered(times: NodeTimes, graph: Any) -> LayerTimes:
    """Sum the times of nodes by layer; without a graph the layer is taken from the node's name."""
    layer_of = _Layers(graph, times) if graph is not None else _of_name
    nodes: dict[str, list[NodeTime]] = {}
    for node in times.nodes:
        nodes.setdefault(layer_of(node), []).append(node)
    layers = tuple(_together(name, parts) for name, parts in nodes.items())
    total = quantile(times.runs_ms, 0.5)
    return LayerTimes(layers, total - sum(layer.median_ms for layer in layers), total)


def _together(name: str, parts: list[NodeTime]) -> LayerTime:
    runs = [sum(samples) for samples in zip(*(part.samples_ms for part in parts), strict=True)]
    return LayerTime(name, tuple(dict.fromkeys(part.op for part in parts)), quantile(runs, 0.5))


def _of_name(ran: NodeTime) -> str:
    """Layer in a node's name: ``layer1.0.conv1`` for ``layer1.0.conv1/Conv``."""
    return ran.name.rpartition("/")[0] or ran.name


class _Layers:
    """Finds the layer of a node that ran."""

    def __init__(self, graph: Any, times: NodeTimes) -> None:
        self.weights = {tensor.name for tensor in graph.initializer}
        self.by_name = {node.name: node for node in graph.node if node.name}
        self.writer = {name: node for node in graph.node for name in node.output if name}
        self.ran = {id(node) for timed in times.nodes if (node := self._in_file(timed.name)) is not None}

    def __call__(self, ran: NodeTime) -> str:
        node = self._in_file(ran.name)
        if node is None:
            return f"({ran.op})"
        return self._named(self._product_within(node, ran.op))

    def _in_file(self, name: str) -> Any:
        for mark in MARKS:
            name = name.partition(mark)[0]
        return self.by_name.get(name) or self.writer.get(name)

    def _product_within(self, node: Any, op: str) -> Any:
        """The node with this operator that was fused into ``node``: up to three nodes before it, and not run itself."""
        if op not in PRODUCTS:
            return node
        candidates = [node]
        for _ in range(3):  # an activation, a sum, a norm
            for candidate in candidates:
                if candidate.op_type == op:
                    return candidate
            candidates = list(self._before(candidates))
        return next((candidate for candidate in candidates if candidate.op_type == op), node)

    def _before(self, nodes: list[Any]) -> Iterator[Any]:
        for name in (name for node in nodes for name in node.input):
            writer = self.writer.get(name)
            if writer is not None and id(writer) not in self.ran:
                yield writer

    def _named(self, node: Any) -> str:
        for name in node.input:
            if name in self.weights and name.endswith(".weight"):
                return name.removesuffix(".weight")
        scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), None)
        return _innermost(scopes) or node.name or node.output[0]


def _innermost(text: str | None) -> str | None:
    """Innermost module in a list such as ``['', 'layer1', 'layer1.0', 'add']``; its last entry is the operator."""
    try:
        scopes = ast.literal_eval(text) if text else []
    except (ValueError, SyntaxError):
        return None
    return next((str(scope) for scope in reversed(scopes[:-1]) if scope and scope[0] != "_"), None)
