"""Where the time of an ONNX file goes: the times of its nodes gathered by layer, and what is left over.

A node belongs to the module whose weight it reads, else to the module that the exporter noted on it, else to itself:
a file from elsewhere is told by its own names. A runtime runs other nodes than the file has. One that it fused is
found by the tensor that it writes, and counted where its product stands in the file; one that it put in between, to
turn a layout into another, belongs to nobody and stands under its operator, in brackets.
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
# What ONNX Runtime puts behind the name of a tensor or a node when it makes another node of it.
MARKS = ("_nchwc", "/QuickGeluFusion/", "_token_")


@dataclass(frozen=True)
class LayerTime:
    """One layer: the operators that ran for it, and the median of what they took together in a run."""

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
    """Run a file and say what each of its layers takes. The profiler is on, so the sum is no claim about the whole."""
    return gathered(node_times(path, feed, threads=threads, rounds=rounds), read_model(path).graph)


def gathered(times: NodeTimes, graph: Any) -> LayerTimes:
    """The same of nodes that were timed already; without a graph a layer is what its node is called after."""
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
    """``layer1.0.conv1`` of ``layer1.0.conv1/Conv``."""
    return ran.name.rpartition("/")[0] or ran.name


class _Layers:
    """The layer of a node that ran."""

    def __init__(self, graph: Any, times: NodeTimes) -> None:
        self.weights = {tensor.name for tensor in graph.initializer}
        self.by_name = {node.name: node for node in graph.node if node.name}
        self.writer = {name: node for node in graph.node for name in node.output if name}
        self.ran = {id(node) for each in times.nodes if (node := self._in_file(each.name)) is not None}

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
        """The node of that operator which was fused into this one: behind it, and not run on its own."""
        if op not in PRODUCTS:
            return node
        behind = [node]
        for _ in range(3):  # an activation, a sum, a norm
            for each in behind:
                if each.op_type == op:
                    return each
            behind = list(self._before(behind))
        return next((each for each in behind if each.op_type == op), node)

    def _before(self, nodes: list[Any]) -> Iterator[Any]:
        for name in (name for node in nodes for name in node.input):
            writer = self.writer.get(name)
            if writer is not None and id(writer) not in self.ran:
                yield writer

    def _named(self, node: Any) -> str:
        for name in node.input:
            if name in self.weights and name.endswith(".weight"):
                return name.removesuffix(".weight")
        noted = next((each.value for each in node.metadata_props if each.key == SCOPES), None)
        return _innermost(noted) or node.name or node.output[0]


def _innermost(noted: str | None) -> str | None:
    """The innermost module in a list such as ``['', 'layer1', 'layer1.0', 'add']``; its last entry is the operator."""
    try:
        scopes = ast.literal_eval(noted) if noted else []
    except (ValueError, SyntaxError):
        return None
    return next((str(scope) for scope in reversed(scopes[:-1]) if scope and scope[0] != "_"), None)
