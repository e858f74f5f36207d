"""What the exporter leaves to be done in a graph: norms before a convolution, averages, spelling, names.

Each pass changes nothing that the network computes. Norms after a convolution are folded by the exporter already;
of those before one it keeps all. A norm that meets a nonlinearity first, as in DenseNet, is no part of any
convolution: it stays, and is counted in the artifact's notes.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir

    Array = np.ndarray[Any, np.dtype[Any]]

LAYER_NAMES = "pkg.torch.onnx.name_scopes"
NO_LAYER = "_empty_nn_module_stack_from_metadata_hook"


def tidy(model: onnx_ir.Model) -> None:
    """Apply every pass to ``model``, in place."""
    for node in [node for node in model.graph if node.op_type == "BatchNormalization"]:
        _fold_into_next(model.graph, node)
    for node in list(model.graph.all_nodes()):
        if node.op_type == "Einsum":
            _spell_in_small_letters(node)
        if node.op_type == "ReduceMean" and _is_global_average(node):
            _say_that_it_pools(node)
    _drop_unused(model)
    _name_after_layers(model.graph)


def _fold_into_next(graph: onnx_ir.Graph, norm: onnx_ir.Node) -> None:
    """A norm is x·a + b for each channel; a convolution without a border, or a linear layer, takes both in."""
    import numpy as np

    uses = list(norm.outputs[0].uses())
    if len(uses) != 1 or norm.outputs[0].is_graph_output():
        return
    taker, place = uses[0]
    weight = _constant(taker, 1)
    if place != 0 or weight is None or not _takes_a_shift(taker):
        return
    parts = [_constant(norm, index) for index in range(1, 5)]
    if any(part is None for part in parts):
        return
    scale, shift, mean, var = (np.asarray(part, np.float64) for part in parts)
    epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else 1e-5
    factor = scale / np.sqrt(var + epsilon)
    shift = shift - mean * factor

    groups = taker.attributes["group"].as_int() if "group" in taker.attributes else 1
    grouped = np.asarray(weight, np.float64).reshape(groups, len(weight) // groups, weight.shape[1], -1)
    by_group = factor.reshape(groups, 1, -1, 1), shift.reshape(groups, 1, -1, 1)
    bias = _constant(taker, 2)
    moved = (grouped * by_group[1]).sum((2, 3)).reshape(-1) + (0.0 if bias is None else bias)
    name = taker.inputs[1].name or ""  # type: ignore[union-attr]
    _give(graph, taker, 1, f"{name}.folded", (grouped * by_group[0]).reshape(weight.shape), weight.dtype)
    _give(graph, taker, 2, f"{name.removesuffix('weight')}bias.folded", moved, weight.dtype)
    taker.replace_input_with(0, norm.inputs[0])
    graph.remove(norm, safe=True)


def _takes_a_shift(node: onnx_ir.Node) -> bool:
    """A border of zeros would have to become a border of shifts, and no convolution has one."""
    attributes = node.attributes
    if node.op_type == "Gemm":
        plain = all(attributes[key].as_float() == 1 for key in ("alpha", "beta") if key in attributes)
        return plain and "transB" in attributes and attributes["transB"].as_int() == 1
    if node.op_type != "Conv":
        return False
    bordered = "pads" in attributes and any(attributes["pads"].as_ints())
    automatic = "auto_pad" in attributes and attributes["auto_pad"].as_string() not in ("NOTSET", "VALID")
    return not bordered and not automatic


def _constant(node: onnx_ir.Node, index: int) -> Array | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _give(
    graph: onnx_ir.Graph, node: onnx_ir.Node, index: int, name: str, values: Array, dtype: np.dtype[Any]
) -> None:
    import onnx_ir as ir

    tensor = ir.tensor(values.astype(dtype), name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    node.replace_input_with(index, value)


def _spell_in_small_letters(node: onnx_ir.Node) -> None:
    """NVIDIA's parser refuses capitals: `Invalid character(s) in Einsum equation`. ONNX Runtime takes both."""
    import onnx_ir as ir

    equation = node.attributes["equation"].as_string()
    letters = dict.fromkeys(letter for letter in equation if letter.isalpha())
    if equation.islower() or len(letters) > 26:
        return
    small = {letter: chr(ord("a") + index) for index, letter in enumerate(letters)}
    spelt = "".join(small.get(letter, letter) for letter in equation if letter != " ")
    node.attributes["equation"] = ir.AttrString("equation", spelt)


def _is_global_average(node: onnx_ir.Node) -> bool:
    """Over everything behind the channels: each image and channel has one average."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    axes = _constant(node, 1)
    if shape is None or axes is None or len(shape) < 3:
        return False
    return sorted(int(axis) % len(shape) for axis in axes.reshape(-1)) == list(range(2, len(shape)))


def _say_that_it_pools(node: onnx_ir.Node) -> None:
    """Runtimes have 8-bit kernels, and blocked ones, for `GlobalAveragePool`, and leave them for a mean.

    In ONNX Runtime, one thread, efficientnet_b0 in INT8 takes 16.3 ms with means and 13.2 ms with pools.
    """
    import onnx_ir as ir

    assert node.graph is not None
    made = [ir.node("GlobalAveragePool", node.inputs[:1])]
    if "keepdims" in node.attributes and node.attributes["keepdims"].as_int() == 0:
        made.append(ir.node("Flatten", made[0].outputs, {"axis": 1}))
        made[0].outputs[0].type = node.outputs[0].type
    for each in made:
        each.metadata_props.update(node.metadata_props)
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], made, node.outputs, made[-1].outputs)


def _drop_unused(model: onnx_ir.Model) -> None:
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]


def _name_after_layers(graph: onnx_ir.Graph) -> None:
    """Nodes, and what they return, are called `layer1.0.conv1/Conv`; inputs, outputs and weights keep their names."""
    taken: Counter[str] = Counter()
    kept = {id(value) for value in (*graph.inputs, *graph.outputs)}
    for node in graph.all_nodes():
        layer = _layer(node)
        stem = f"{layer}/{node.op_type}" if layer else node.op_type
        taken[stem] += 1
        node.name = stem if taken[stem] == 1 else f"{stem}_{taken[stem]}"
        for index, value in enumerate(node.outputs):
            if id(value) not in kept:
                value.name = f"{node.name}:{index}" if index else f"{node.name}:out"


def _layer(node: onnx_ir.Node) -> str:
    """A folded convolution says that it is its norm; its weights know better."""
    for value in node.inputs[1:2]:
        name = value.name if value is not None and value.is_initializer() else None
        if name and name.removesuffix(".folded").endswith(".weight"):
            return name.removesuffix(".folded").removesuffix(".weight")
    return next(iter(layers_of(node.metadata_props.get(LAYER_NAMES, ""))), "")


def layers_of(noted: str) -> Iterator[str]:
    """The layers around a node, innermost first, from what the exporter noted on it."""
    try:
        names = ast.literal_eval(noted) if noted else []
    except (ValueError, SyntaxError):
        names = []
    # The last is the operation, the first the network itself.
    yield from (str(name) for name in reversed(names[:-1]) if name and name != NO_LAYER)
