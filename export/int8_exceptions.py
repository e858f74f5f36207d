"""Nodes of an INT8 file led around their pairs of quantising and dequantising, so that they compute in float32.

ONNX Runtime's quantiser can leave nodes out, but a value that another node gives out stays in eight bits for them, and
with it most of the harm. Here a spared node reads what was there before: the float value and the float weights.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

PAIRS = ("QuantizeLinear", "DequantizeLinear")
_ABSORBED = ("Relu", "Clip")
"""Left out by the quantiser where the range of the eight bits does their work; without the bits they are needed."""


def quantised_nodes(model: Any) -> list[Any]:
    """The nodes that read a dequantised value."""
    dequantised = {
        output for node in model.graph.node if node.op_type == "DequantizeLinear" for output in node.output
    }
    return [
        node
        for node in model.graph.node
        if node.op_type not in PAIRS and any(name in dequantised for name in node.input)
    ]


def spare(model: Any, plain: Any, names: Collection[str]) -> None:
    """Let the nodes of these names compute in float32; ``model`` was quantised from ``plain``, and is changed."""
    around = ways_around(model, plain)
    for node in model.graph.node:
        if node.name in names:
            node.input[:] = [around.get(name, name) for name in node.input]
    _drop_unused(model)


def ways_around(model: Any, plain: Any) -> dict[str, str]:
    """For each dequantised value the float value that it stands for; where the model has none it is put there."""
    floats = {tensor.name: tensor for tensor in plain.graph.initializer}
    before = {output: node for node in plain.graph.node for output in node.output}
    makers = {output: node for node in model.graph.node for output in node.output}
    around: dict[str, str] = {}
    weights: dict[str, str] = {}
    absorbed: dict[str, Any] = {}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        maker, weight = makers.get(node.input[0]), node.input[0].removesuffix("_quantized")
        if maker is not None and maker.op_type == "QuantizeLinear":
            value = maker.input[0]
            around[node.output[0]] = value
            was, now = before.get(value), makers.get(value)
            if (
                was is not None
                and was.op_type in _ABSORBED
                and now is not None
                and now.op_type != was.op_type
            ):
                absorbed[value] = was
                around[node.output[0]] = f"{value}/float"
        elif weight in floats:
            # The plain name may be that of the dequantised value.
            around[node.output[0]] = weights[weight] = f"{weight}/float"
    for name, own in weights.items():
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(floats[name])
        tensor.name = own
    _put_back(model, absorbed, floats)
    return around


def _put_back(model: Any, absorbed: dict[str, Any], floats: dict[str, Any]) -> None:
    """Each absorbed node after the one that took its name, giving out ``NAME/float``."""
    there = {tensor.name for tensor in model.graph.initializer}
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
                    if bound in floats and bound not in there:
                        there.add(bound)
                        model.graph.initializer.append(floats[bound])
    _replace(model.graph.node, nodes)


def _drop_unused(model: Any) -> None:
    """What nothing reads any more: pairs, put-back nodes and weights of the other precision."""
    wanted = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    _replace(model.graph.node, kept[::-1])
    _replace(model.graph.initializer, [each for each in model.graph.initializer if each.name in wanted])
    known = {output for node in model.graph.node for output in node.output}
    _replace(model.graph.value_info, [each for each in model.graph.value_info if each.name in known])


def _replace(field: Any, items: list[Any]) -> None:
    copies = [type(item)() for item in items]
    for copy, item in zip(copies, items, strict=True):
        copy.CopyFrom(item)
    del field[:]
    field.extend(copies)
