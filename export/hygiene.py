"""Clean up an exported graph: fold norms into the next convolution, rewrite averages and Einsum, name the nodes.

No pass changes what the network computes. The exporter already folds norms after a convolution, but none before one.
A norm that is followed by a nonlinearity, as in DenseNet, cannot be part of a convolution: it stays, and is counted
in the artifact's notes.
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
            _lower_case_einsum(node)
        if node.op_type == "ReduceMean" and _is_global_average(node):
            _replace_mean_by_pool(node)
    _drop_unused(model)
    _name_after_layers(model.graph)


def _fold_into_next(graph: onnx_ir.Graph, norm: onnx_ir.Node) -> None:
    """Fold a norm, x·a + b for each channel, into the next convolution without padding or the next linear layer."""
    import numpy as np

    uses = list(norm.outputs[0].uses())
    if len(uses) != 1 or norm.outputs[0].is_graph_output():
        return
    consumer, input_index = uses[0]
    weight = _constant(consumer, 1)
    if input_index != 0 or weight is None or not _can_absorb_shift(consumer):
        return
    parts = [_constant(norm, index) for index in range(1, 5)]
    if any(part is None for part in parts):
        return
    scale, shift, mean, var = (np.asarray(part, np.float64) for part in parts)
    epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else 1e-5
    factor = scale / np.sqrt(var + epsilon)
    shift = shift - mean * factor

    groups = consumer.attributes["group"].as_int() if "group" in consumer.attributes else 1
    grouped = np.asarray(weight, np.float64).reshape(groups, len(weight) // groups, weight.shape[1], -1)
    by_group = factor.reshape(groups, 1, -1, 1), shift.reshape(groups, 1, -1, 1)
    bias = _constant(consumer, 2)
    moved = (grouped * by_group[1]).sum((2, 3)).reshape(-1) + (0.0 if bias is None else bias)
    name = consumer.inputs[1].name or ""  # type: ignore[union-attr]
    _set_input(
        graph, consumer, 1, f"{name}.folded", (grouped * by_group[0]).reshape(weight.shape), weight.dtype
    )
    _set_input(graph, consumer, 2, f"{name.removesuffix('weight')}bias.folded", moved, weight.dtype)
    consumer.replace_input_with(0, norm.inputs[0])
    graph.remove(norm, safe=True)


def _can_absorb_shift(node: onnx_ir.Node) -> bool:
    """True for a linear layer or a convolution without padding: padding would need the shift in place of zeros."""
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


def _set_input(
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


def _lower_case_einsum(node: onnx_ir.Node) -> None:
    """Rewrite an equation without capitals. ONNX Runtime accepts them, NVIDIA's parser refuses them:

    `Invalid character(s) in Einsum equation`.
    """
    import onnx_ir as ir

    equation = node.attributes["equation"].as_string()
    letters = dict.fromkeys(letter for letter in equation if letter.isalpha())
    if equation.islower() or len(letters) > 26:
        return
    small = {letter: chr(ord("a") + index) for index, letter in enumerate(letters)}
    spelt = "".join(small.get(letter, letter) for letter in equation if letter != " ")
    node.attributes["equation"] = ir.AttrString("equation", spelt)


def _is_global_average(node: onnx_ir.Node) -> bool:
    """True for a mean over all axes after the channels: one average for each image and channel."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    axes = _constant(node, 1)
    if shape is None or axes is None or len(shape) < 3:
        return False
    return sorted(int(axis) % len(shape) for axis in axes.reshape(-1)) == list(range(2, len(shape)))


def _replace_mean_by_pool(node: onnx_ir.Node) -> None:
    """Replace a mean by `GlobalAveragePool`: only for pools do runtimes have 8-bit kernels and blocked ones.

    In ONNX Runtime, one thread, efficientnet_b0 in INT8 takes 16.3 ms with means and 13.2 ms with pools.
    """
    import onnx_ir as ir

    assert node.graph is not None
    replacement = [ir.node("GlobalAveragePool", node.inputs[:1])]
    if "keepdims" in node.attributes and node.attributes["keepdims"].as_int() == 0:
        replacement.append(ir.node("Flatten", replacement[0].outputs, {"axis": 1}))
        replacement[0].outputs[0].type = node.outputs[0].type
    for new_node in replacement:
        new_node.metadata_props.update(node.metadata_props)
    ir.convenience.replace_nodes_and_values(
        node.graph, node, [node], replacement, node.outputs, replacement[-1].outputs
    )


def _drop_unused(model: onnx_ir.Model) -> None:
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]


def _name_after_layers(graph: onnx_ir.Graph) -> None:
    """Name nodes and their results `layer1.0.conv1/Conv`; weights, inputs and outputs of the graph keep their names."""
    uses: Counter[str] = Counter()
    fixed = {id(value) for value in (*graph.inputs, *graph.outputs)}
    for node in graph.all_nodes():
        layer = _layer(node)
        stem = f"{layer}/{node.op_type}" if layer else node.op_type
        uses[stem] += 1
        node.name = stem if uses[stem] == 1 else f"{stem}_{uses[stem]}"
        for index, value in enumerate(node.outputs):
            if id(value) not in fixed:
                value.name = f"{node.name}:{index}" if index else f"{node.name}:out"


def _layer(node: onnx_ir.Node) -> str:
    """Layer of a node, by its weight if it has one: the exporter notes the norm on a convolution that it folded."""
    for value in node.inputs[1:2]:
        name = value.name if value is not None and value.is_initializer() else None
        if name and name.removesuffix(".folded").endswith(".weight"):
            return name.removesuffix(".folded").removesuffix(".weight")
    return next(iter(layers_of(node.metadata_props.get(LAYER_NAMES, ""))), "")


def layers_of(scopes: str) -> Iterator[str]:
    """List the layers around a node, innermost first, from the scopes that the exporter noted on it."""
    try:
        names = ast.literal_eval(scopes) if scopes else []
    except (ValueError, SyntaxError):
        names = []
    # The last entry is the operation, the first the network itself.
    yield from (str(name) for name in reversed(names[:-1]) if name and name != NO_LAYER)
