"""Build the steps of an ONNX file, from its graph and the shapes with which it ran; ``activations`` defines a step.

A file does not say which operators make views. Here re-indexing does (``VIEWS``), as in torch; a view whose numbers
are not contiguous is copied when it is reshaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compressor.profiling.activations import Activations, Step, activations

Shape = tuple[int, ...]

WIDTHS = {
    **dict.fromkeys(("double", "int64", "uint64"), 8),
    **dict.fromkeys(("float", "int32", "uint32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
}

RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
PARTS = frozenset({"Slice", "Split", "Gather"})
VIEWS = RESHAPES | PARTS | {"Identity", "Dropout", "Expand", "Transpose"}
ABOUT_SIZES = frozenset({"Shape", "Size"})

ELEMENTWISE = frozenset(
    """Abs Add And BatchNormalization Cast Ceil Celu Clip Cos Div Elu Equal Erf Exp Floor Gelu Greater HardSigmoid
    HardSwish LeakyRelu Less Log Max Min Mish Mod Mul Neg Not Or Pow PRelu Reciprocal Relu Round Selu Sigmoid Sign Sin
    Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor""".split()
)


@dataclass
class _Graph:
    """Buffer and shape of each data tensor by its name; ``in_order``: True if its numbers are contiguous."""

    sizes: dict[str, int] = field(default_factory=dict)
    buffer: dict[str, str] = field(default_factory=dict)
    shape: dict[str, Shape] = field(default_factory=dict)
    in_order: dict[str, bool] = field(default_factory=dict)

    def add(self, name: str, shape: Shape, width: int) -> None:
        self.sizes[name] = math.prod(shape) * width
        self.view(name, name, shape, True)

    def view(self, name: str, buffer: str, shape: Shape, in_order: bool) -> None:
        self.buffer[name], self.shape[name], self.in_order[name] = buffer, shape, in_order


def file_activations(
    graph: Any, events: Sequence[Mapping[str, Any]], inputs: Mapping[str, tuple[Shape, int]]
) -> Activations | None:
    """Memory of one run; layers are named by the nodes' first outputs. ``inputs``: shape and bytes of a number.

    None if a shape is unknown, as with loops and branches in the file.
    """
    nodes = [node for node in graph.node if node.op_type != "Constant"]
    types = _tensor_types(nodes, events)
    known, steps = _Graph(), []
    for name, (shape, width) in inputs.items():
        known.add(name, shape, width)
    for node in nodes:
        reads = [name for name in node.input if name in known.buffer]
        if not reads or node.op_type in ABOUT_SIZES:
            continue
        written = {name: types[name] for name in node.output if name in types}
        if not written:
            return None
        if _is_view(node, known, reads[0], written):
            for name, (shape, _) in written.items():
                known.view(name, known.buffer[reads[0]], shape, _stays_in_order(node, known, reads[0], shape))
            continue
        for name, (shape, width) in written.items():
            known.add(name, shape, width)
        steps.append(
            Step(
                (node.output[0],),
                frozenset(known.buffer[name] for name in reads),
                frozenset(written),
                node.op_type in ELEMENTWISE,
            )
        )
    kept = {known.buffer[output.name] for output in graph.output if output.name in known.buffer}
    return activations(steps, known.sizes, inputs, kept)


def _tensor_types(nodes: Sequence[Any], events: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Shape, int]]:
    """Shape of each tensor, and the bytes of a number in it, from the events of the nodes that read or write it.

    A function that a runtime splits (HardSwish) has no event; the shape of its output is that of its reader's input.
    """
    if [node.op_type for node in nodes] == [event["args"]["op_name"] for event in events]:
        pairs = list(zip(nodes, events, strict=True))
    else:
        by_name = {event["name"].removesuffix("_kernel_time"): event for event in events}
        pairs = [(node, by_name[node.name]) for node in nodes if node.name and node.name in by_name]
    types: dict[str, tuple[Shape, int]] = {}
    for node, event in pairs:
        for names, key in ((node.input, "input_type_shape"), (node.output, "output_type_shape")):
            typed = [next(iter(entry.items())) for entry in event["args"][key]]
            for name, (kind, shape) in zip([name for name in names if name], typed, strict=False):
                types[name] = (tuple(shape), WIDTHS.get(kind, 1))
    return types


def _is_view(node: Any, known: _Graph, source: str, written: Mapping[str, tuple[Shape, int]]) -> bool:
    if node.op_type in RESHAPES:
        return known.in_order[source]
    if node.op_type == "Gather":  # with one index, as `x[:, 0]`; with several it is a copy
        return all(len(shape) < len(known.shape[source]) for shape, _ in written.values())
    return node.op_type in VIEWS


def _stays_in_order(node: Any, known: _Graph, source: str, after: Shape) -> bool:
    before = known.shape[source]
    if node.op_type == "Transpose":
        order = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), None)
        moved = [axis for axis in order or reversed(range(len(before))) if before[axis] != 1]
        return known.in_order[source] and moved == sorted(moved)
    if node.op_type in PARTS:
        return known.in_order[source] and all(size == 1 for size in before[: _first_change(before, after)])
    return known.in_order[source] and (node.op_type != "Expand" or math.prod(before) == math.prod(after))


def _first_change(before: Shape, after: Shape) -> int:
    pairs = zip(before, after, strict=False)
    return next((axis for axis, (old, new) in enumerate(pairs) if old != new), len(after))
