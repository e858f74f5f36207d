"""Let chosen nodes of an INT8 file compute in float32, by bypassing the quantise and dequantise nodes before them.

ONNX Runtime's quantiser can leave nodes out, but the results of other nodes still reach them in eight bits, and with
them most of the error. Here such a node reads the original tensors: the float result and the float weights.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

PAIRS = ("QuantizeLinear", "DequantizeLinear")
_ABSORBED = ("Relu", "Clip")
"""Activations that the quantiser drops where the 8-bit range does the same; in float32 they are needed."""


def quantised_nodes(model: Any) -> list[Any]:
    """List the nodes that read a dequantised tensor."""
    dequantised = {
        output for node in model.graph.node if node.op_type == "DequantizeLinear" for output in node.output
    }
    return [
        node
        for node in model.graph.node
        if node.op_type not in PAIRS and any(name in dequantised for name in node.input)
    ]


def spare(model: Any, plain: Any, names: Collection[str]) -> None:
    """Let the nodes in ``names`` compute in float32; ``model`` was quantised from ``plain`` and is changed in place."""
    float_names = ways_around(model, plain)
    for node in model.graph.node:
        if node.name in names:
            node.input[:] = [float_names.get(name, name) for name in node.input]
    _drop_unused(model)


def ways_around(model: Any, plain: Any) -> dict[str, str]:
    """Map each dequantised tensor to its float tensor, which is added to the model where it is missing."""
    floats = {tensor.name: tensor for tensor in plain.graph.initializer}
    original_nodes = {output: node for node in plain.graph.node for output in node.output}
    writers = {output: node for node in model.graph.node for output in node.output}
    float_names: dict[str, str] = {}
    weights: dict[str, str] = {}
    absorbed: dict[str, Any] = {}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        source, weight = writers.get(node.input[0]), node.input[0].removesuffix("_quantized")
        if source is not None and source.op_type == "QuantizeLinear":
            value = source.input[0]
            float_names[node.output[0]] = value
            original, writer = original_nodes.get(value), writers.get(value)
            if (
                original is not None
                and original.op_type in _ABSORBED
                and writer is not None
                and writer.op_type != original.op_type
            ):
                absorbed[value] = original
                float_names[node.output[0]] = f"{value}/float"
        elif weight in floats:
            # A new name, because the plain one may be that of the dequantised tensor.
            float_names[node.output[0]] = weights[weight] = f"{weight}/float"
    for name, float_name in weights.items():
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(floats[name])
        tensor.name = float_name
    _insert_absorbed(model, absorbed, floats)
    return float_names


def _insert_absorbed(model: Any, absorbed: dict[str, Any], floats: dict[str, Any]) -> None:
    """Insert each absorbed node after the node that now writes its tensor; its own result is ``NAME/float``."""
    present = {tensor.name for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        for output in node.output:
            if output in absorbed:
                copy = type(node)()
                copy.CopyFrom(absorbed[output])
                copy.name = f"{copy.name}/float"
                copy.input[0], copy.output[0] = output, f"{output}/float"
                nodes.append(copy)
                for bound in copy.input[1:]:
                    if bound in floats and bound not in present:
                        present.add(bound)
                        model.graph.initializer.append(floats[bound])
    _replace(model.graph.node, nodes)


def _drop_unused(model: Any) -> None:
    """Remove everything that is not read any more: pairs, inserted nodes and weights of the other precision."""
    used = {output.name for output in model.graph.output}
    used_nodes = []
    for node in reversed(model.graph.node):
        if used.intersection(node.output):
            used.update(node.input)
            used_nodes.append(node)
    _replace(model.graph.node, used_nodes[::-1])
    _replace(model.graph.initializer, [weight for weight in model.graph.initializer if weight.name in used])
    written = {output for node in model.graph.node for output in node.output}
    _replace(model.graph.value_info, [info for info in model.graph.value_info if info.name in written])


def _replace(field: Any, items: list[Any]) -> None:
    copies = [type(item)() for item in items]
    for copy, item in zip(copies, items, strict=True):
        copy.CopyFrom(item)
    del field[:]
    field.extend(copies)
