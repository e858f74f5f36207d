"""Small ONNX files, and one that is slower than another by a known share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def network(path: Path, *, width: int = 32, layers: int = 3, extra: int = 0, value: float = 0.01) -> Path:
    """Convolutions one after the other; ``extra`` more of them in a branch that only adds time."""
    nodes, held, channels, last = [], [], 3, "x"
    for number in range(layers):
        held.append(weight(f"w{number}", width, channels, value))
        nodes.append(helper.make_node("Conv", [last, f"w{number}"], [f"y{number}"], pads=[1] * 4))
        channels, last = width, f"y{number}"
    for number in range(extra):
        held.append(weight(f"e{number}", width, width, 0.0))
        nodes.append(helper.make_node("Conv", [last, f"e{number}"], [f"z{number}"], pads=[1] * 4))
        nodes.append(helper.make_node("Add", [last, f"z{number}"], [f"s{number}"]))
        last = f"s{number}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["out"]))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 24, 24])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", width, 1, 1])
    graph = helper.make_graph(nodes, "graph", [given], [out], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def weight(name: str, out: int, channels: int, value: float) -> onnx.TensorProto:
    return numpy_helper.from_array(np.full((out, channels, 3, 3), value, np.float32), name)
