"""Count multiply-adds, parameters and operators of an ONNX file, by the same convention as for a module.

The file runs once, on one sample of zeros, as it was written (no optimisation), and ONNX Runtime's profile gives the
shape of every product. Inferring shapes from the file would be faster, but fails if sizes are computed in the graph,
as exporters often do with a free batch. Convolutions, matrix products and recurrent layers are counted; an operator
that multiplies and is not in ``PRODUCTS`` counts as zero, so ``operators`` lists all operators.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compressor.errors import ProfileError
from compressor.profiling.onnx_steps import file_activations

Shape = tuple[int, ...]


@dataclass(frozen=True)
class NodeCount:
    """One product; ``width`` is the number of channels that it writes.

    ``activation_bytes`` is the memory in use while it runs; None if that of the file is None.
    """

    name: str
    kind: str
    macs: int
    width: int
    activation_bytes: int | None = None


@dataclass(frozen=True)
class FileCounts:
    """The cost of one sample. ``params`` are the floating-point constants that the file holds.

    ``activation_bytes`` is counted as for a module (`profiles.activations`). It is None if the shape of
    a tensor is unknown: with loops and branches in the file.
    """

    macs: int
    params: int
    bytes: int
    activation_bytes: int | None
    operators: Mapping[str, int]
    layers: tuple[NodeCount, ...]

    @property
    def flops(self) -> int:
        return 2 * self.macs

    def to_dict(self) -> dict[str, object]:
        return {**asdict(self), "flops": self.flops}


@dataclass(frozen=True)
class _Ran:
    """A node that ran: the shapes of its constants, of its first input, and of its output."""

    node: Any
    constants: Mapping[str, Shape]
    first: Shape
    out: Shape

    def constant(self, place: int) -> Shape:
        return self.constants[self.node.input[place]]


def count_file(path: Path, *, side: Sequence[int] = ()) -> FileCounts:
    """Count one pass of one sample. ``side``: sizes of the free axes after the batch, in order."""
    import onnx

    model = read_model(path)
    constants = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    feed, events = _run(path, list(side))
    inputs = {name: (value.shape, value.itemsize) for name, value in feed.items()}
    memory = file_activations(model.graph, events, inputs)
    layers = []
    for node, shapes in zip(*_products(path, model, events), strict=True):
        try:
            macs, width = PRODUCTS[node.op_type](_Ran(node, constants, *shapes))
        except (KeyError, IndexError, ValueError) as error:
            raise ProfileError(
                f"cannot count `{path}`: node `{node.name or node.output[0]}` ({node.op_type}) has no constant weight"
            ) from error
        in_use = memory.by_layer.get(node.output[0]) if memory else None
        layers.append(NodeCount(node.name or node.output[0], node.op_type, macs, width, in_use))
    kinds = onnx.TensorProto
    floating = {kinds.FLOAT, kinds.FLOAT16, kinds.BFLOAT16, kinds.DOUBLE}
    weights = (tensor for tensor in model.graph.initializer if tensor.data_type in floating)
    weights_file = path.with_name(f"{path.name}.data")
    return FileCounts(
        macs=sum(layer.macs for layer in layers),
        params=sum(math.prod(tensor.dims) for tensor in weights),
        bytes=path.stat().st_size + (weights_file.stat().st_size if weights_file.exists() else 0),
        activation_bytes=memory.peak if memory else None,
        operators=dict(sorted(Counter(node.op_type for node in model.graph.node).items())),
        layers=tuple(layers),
    )


def read_model(path: Path) -> Any:
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except FileNotFoundError as error:
        raise ProfileError(f"cannot count `{path}`: no such file") from error
    except Exception as error:  # of protobuf's own types
        raise ProfileError(f"cannot count `{path}`: it is no ONNX file") from error
    if not model.graph.node:
        raise ProfileError(f"cannot count `{path}`: it is no ONNX file, or an empty one")
    return model


Events = list[dict[str, Any]]


def _run(path: Path, side: list[int]) -> tuple[dict[str, Any], Events]:
    """Run the file; return the feed, and an event for every node that ran, in file order."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # errors are raised; at 3 they are printed as well
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            feed = {
                spec.name: np.zeros(_one_sample(path, spec, side), _dtype(spec))
                for spec in session.get_inputs()
            }
            session.run(None, feed)
        except ProfileError:
            raise
        except Exception as error:  # ONNX Runtime's exception types share no base class of their own
            raise ProfileError(f"cannot count `{path}`: {_without_source(error)}", _hint(error)) from error
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = (event for event in events if event["name"].endswith("_kernel_time"))
    return feed, sorted(kernels, key=lambda event: int(event["args"]["node_index"]))


def as_it_ran(path: Path, model: Any, side: list[int]) -> tuple[list[Any], list[tuple[Shape, Shape]]]:
    """List the products in file order, and for each the shapes of its first input and its output."""
    return _products(path, model, _run(path, side)[1])


def shapes_as_it_ran(path: Path, model: Any, side: list[int]) -> tuple[dict[str, Shape], frozenset[str]]:
    """Shapes of the tensors that nodes of the file read or wrote, and the names of the nodes that ran.

    A node that the runtime splits before it runs (`HardSwish`) has no event; its neighbours give its shapes.
    """
    events = {event["name"].removesuffix("_kernel_time"): event["args"] for event in _run(path, side)[1]}
    shapes: dict[str, Shape] = {}
    for node in model.graph.node:
        event = events.get(node.name, {})
        for names, key in ((node.input, "input_type_shape"), (node.output, "output_type_shape")):
            present = [name for name in names if name]
            typed = event.get(key, ())
            if len(present) == len(typed):
                shapes |= {name: _shape(entry) for name, entry in zip(present, typed, strict=True)}
    return shapes, frozenset(events)


def _first_and_out(event: Mapping[str, Any]) -> tuple[Shape, Shape]:
    first, out = (event["args"][key] for key in ("input_type_shape", "output_type_shape"))
    return _shape(first[0]) if first else (), _shape(out[0]) if out else ()


def _products(path: Path, model: Any, events: Events) -> tuple[list[Any], list[tuple[Shape, Shape]]]:
    ran = [event for event in events if event["args"]["op_name"] in PRODUCTS]
    nodes = [node for node in model.graph.node if node.op_type in PRODUCTS]
    if [event["args"]["op_name"] for event in ran] != [node.op_type for node in nodes]:
        raise ProfileError(
            f"cannot count `{path}`: it has {len(nodes)} products, of which {len(ran)} ran once",
            "loops, branches and functions inside a file are not counted",
        )
    return nodes, [_first_and_out(event) for event in ran]


def _without_source(error: Exception) -> str:
    """First line of an error of ONNX Runtime, without its long C++ file names and signatures."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    line = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", line)
    return re.sub(r"(?:Load model from .* failed:)?/onnxruntime_src/.*\) (?=[A-Z])", "", line)


def _hint(error: Exception) -> str | None:
    newer = re.search(r"[Oo]pset \d+ is under|IR version", str(error))
    return "export it again with an older opset, or update onnxruntime" if newer else None


def _one_sample(path: Path, spec: Any, side: list[int]) -> list[int]:
    first, *others = spec.shape or [1]
    free = [axis for axis, size in enumerate(others, 1) if not isinstance(size, int)]
    if len(free) > len(side):
        raise ProfileError(
            f"cannot count `{path}`: axis {free[len(side)]} of its input `{spec.name}` is free "
            f"(`{others[free[len(side)] - 1]}`)",
            "export it with a fixed size, or give its size; only the batch, the first axis, is set to one",
        )
    sizes = iter(side)
    return [first if isinstance(first, int) and len(spec.shape) == 1 else 1] + [
        size if isinstance(size, int) else next(sizes) for size in others
    ]


def _dtype(spec: Any) -> str:
    kind = spec.type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(kind, kind)


def _shape(typed: Mapping[str, Sequence[int]]) -> Shape:
    (sizes,) = typed.values()
    return tuple(sizes)


Product = Callable[[_Ran], tuple[int, int]]
"""Function from a node that ran to its multiply-adds and the number of channels that it writes."""


def _convolution(weight_at: int) -> Product:
    return lambda ran: (math.prod(ran.out) * math.prod(ran.constant(weight_at)[1:]), ran.out[1])


def _recurrent(ran: _Ran) -> tuple[int, int]:
    steps, batch = ran.first[:2]
    return steps * batch * (math.prod(ran.constant(1)) + math.prod(ran.constant(2))), ran.constant(2)[-1]


def _gemm(ran: _Ran) -> tuple[int, int]:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in ran.node.attribute)
    return math.prod(ran.out) * ran.first[0 if transposed else -1], ran.out[-1]


def _matmul(ran: _Ran) -> tuple[int, int]:
    return math.prod(ran.out) * ran.first[-1], ran.out[-1] if ran.out else 1


PRODUCTS: dict[str, Product] = {
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "ConvTranspose": lambda ran: (math.prod(ran.first) * math.prod(ran.constant(1)[1:]), ran.out[1]),
    "Gemm": _gemm,
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul"), _matmul),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
}
