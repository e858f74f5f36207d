"""Building blocks of an ONNX file: each product with constant weights, and the activations behind it.

A block can be built again at other widths, as a separate file, to know the cost of a width before a network of that
width exists. One file holds several blocks side by side: every run measures all of them, and each block starts with
the caches as another block left them, as in a network.

Left out: products of two computed tensors (attention), transposed convolutions and recurrent layers; they are
``None``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compressor.profiling.onnx_counts import as_it_ran, read_model

Shape = tuple[int, ...]

ACTIVATIONS = frozenset(
    "Relu Clip LeakyRelu Sigmoid HardSigmoid HardSwish Tanh Elu Selu Gelu Softplus Mish Swish".split()
)
"""Operators of one input that runtimes fuse with the product before them, or run in place."""


@dataclass(frozen=True)
class Block:
    """A convolution (``sides``: of its input) or a matrix product (``sides``: its rows), with its widths.

    It writes ``out`` channels, and each reads ``inner`` input channels: all of them, or those of its group.
    """

    op: str
    sides: Shape
    out: int
    inner: int
    groups: int = 1
    kernel: Shape = ()
    strides: Shape = ()
    pads: Shape = ()
    dilations: Shape = ()
    tail: tuple[str, ...] = ()
    batch: int = 1

    @property
    def weights(self) -> int:
        """Count of numbers in the weight."""
        return self.out * self.inner * math.prod(self.kernel)

    def at(self, out: int, inner: int, groups: int) -> Block:
        """Return the same block at another width."""
        return replace(self, out=out, inner=inner, groups=groups)


def blocks_of(path: Path, *, side: Sequence[int] = (), batch: int = 1) -> tuple[Block | None, ...]:
    """List the block of every product, in file order. ``side``: sizes of free axes, as in `count_file`."""
    return tuple(block for _, block in named_blocks(path, side=side, batch=batch))


def named_blocks(
    path: Path, *, side: Sequence[int] = (), batch: int = 1
) -> tuple[tuple[str, Block | None], ...]:
    """List the blocks with the module whose weight each reads; in a file of another exporter, with the node's name."""
    model = read_model(path)
    nodes, shapes = as_it_ran(path, model, list(side))
    constants = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    readers = readers_of(model)
    return tuple(
        (
            _name(node),
            _block(node, first, constants, tuple(kind for kind, _ in tail_of(node, readers)), batch),
        )
        for node, (first, _) in zip(nodes, shapes, strict=True)
    )


def readers_of(model: Any) -> dict[str, list[Any]]:
    """Map each tensor to the nodes that read it."""
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def _name(node: Any) -> str:
    weight = str(node.input[1])
    return weight.removesuffix(".weight") if weight.endswith(".weight") else node.name or node.output[0]


def _block(
    node: Any, first: Shape, constants: Mapping[str, Shape], tail: tuple[str, ...], batch: int
) -> Block | None:
    weight = constants.get(node.input[1])
    if weight is None:
        return None
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Conv":
        rank = len(weight) - 2

        def numbers(name: str, default: Shape) -> Shape:
            return tuple(attributes[name].ints) if name in attributes else default

        if "auto_pad" in attributes and attributes["auto_pad"].s not in (b"", b"NOTSET"):
            return None
        return Block(
            "Conv",
            tuple(first[2:]),
            weight[0],
            weight[1],
            attributes["group"].i if "group" in attributes else 1,
            tuple(weight[2:]),
            numbers("strides", (1,) * rank),
            numbers("pads", (0,) * 2 * rank),
            numbers("dilations", (1,) * rank),
            tail,
            batch,
        )
    if node.op_type in ("Gemm", "MatMul") and len(weight) == 2:
        transposed = "transB" in attributes and bool(attributes["transB"].i)
        out, inner = weight if transposed else (weight[1], weight[0])
        return Block("Gemm", (math.prod(first[:-1]),), out, inner, tail=tail, batch=batch)
    return None


def tail_of(node: Any, readers: Mapping[str, list[Any]]) -> list[tuple[str, tuple[Any, ...]]]:
    """List the activations behind a product, with their nodes, while no other node reads the tensors between.

    A tensor multiplied by its own sigmoid is SiLU.
    """
    tail: list[tuple[str, tuple[Any, ...]]] = []
    while True:
        next_nodes = readers.get(node.output[0], [])
        kinds = sorted(reader.op_type for reader in next_nodes)
        if kinds == ["Mul", "Sigmoid"]:
            gate, product = sorted(next_nodes, key=lambda reader: reader.op_type != "Sigmoid")
            if gate.output[0] in product.input and len(readers.get(gate.output[0], [])) == 1:
                tail.append(("SiLU", (gate, product)))
                node = product
                continue
        if len(next_nodes) != 1 or kinds[0] not in ACTIVATIONS:
            return tail
        node = next_nodes[0]
        tail.append((kinds[0], (node,)))


def side_by_side(blocks: Sequence[Block]) -> tuple[bytes, dict[str, Shape]]:
    """Build a file with all of these blocks, and the shapes of its inputs. Nodes of block 3 are named ``b3_...``."""
    from onnx import TensorProto, helper

    nodes: list[Any] = []
    weights: list[Any] = []
    outputs: list[Any] = []
    inputs: dict[str, Shape] = {}
    for number, block in enumerate(blocks):
        name, shape = _input_of(block)
        inputs[name] = shape
        nodes += _nodes(number, block, name)
        weights += _weights(number, block)
        outputs.append(helper.make_empty_tensor_value_info(f"end{number}"))
    if any("Clip" in block.tail for block in blocks):  # a runtime warns about unused weights
        weights += _bounds()
    graph = helper.make_graph(
        nodes,
        "blocks",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        outputs,
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return bytes(model.SerializeToString()), inputs


def _input_of(block: Block) -> tuple[str, Shape]:
    channels = block.inner * block.groups
    if block.op == "Gemm":
        shape: Shape = (block.batch * block.sides[0], channels)
    else:
        shape = (block.batch, channels, *block.sides)
    return "x" + "x".join(map(str, shape)), shape


def _nodes(number: int, block: Block, reads: str) -> Iterator[Any]:
    from onnx import helper

    def node(op: str, inputs: list[str], written: str, **attributes: Any) -> Any:
        return helper.make_node(op, inputs, [written], name=f"{written}_", **attributes)

    at = f"b{number}_product"
    operands = [reads, f"w{number}", f"c{number}"]
    if block.op == "Gemm":
        yield node("Gemm", operands, at, transB=1)
    else:
        yield node(
            "Conv",
            operands,
            at,
            kernel_shape=block.kernel,
            strides=block.strides,
            pads=block.pads,
            dilations=block.dilations,
            group=block.groups,
        )
    for place, kind in enumerate(block.tail):
        written = f"b{number}_tail{place}"
        if kind == "SiLU":
            yield node("Sigmoid", [at], f"{written}gate")
            yield node("Mul", [at, f"{written}gate"], written)
        elif kind == "Clip":
            yield node("Clip", [at, "low", "high"], written)
        elif kind in ("Swish",):  # not in the opset that is written here
            yield node("HardSwish", [at], written)
        else:
            yield node(kind, [at], written)
        at = written
    # Reduce the output to one number for each channel, so that writing it costs little.
    if block.op == "Gemm":
        yield helper.make_node("ReduceMax", [at], [f"end{number}"], keepdims=0)
    else:
        yield helper.make_node("GlobalAveragePool", [at], [f"end{number}"])


def _weights(number: int, block: Block) -> list[Any]:
    import numpy as np
    from onnx import numpy_helper

    random = np.random.default_rng(number)
    shape = (block.out, block.inner, *block.kernel)
    scale = np.float32(1 / math.sqrt(block.weights / block.out))
    return [
        numpy_helper.from_array(random.standard_normal(shape, np.float32) * scale, f"w{number}"),
        numpy_helper.from_array(np.zeros(block.out, np.float32), f"c{number}"),
    ]


def _bounds() -> list[Any]:
    """Bounds of every `Clip`."""
    import numpy as np
    from onnx import numpy_helper

    return [
        numpy_helper.from_array(np.array(bound, np.float32), name)
        for name, bound in (("low", 0), ("high", 6))
    ]
