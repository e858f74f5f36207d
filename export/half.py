"""Rewrite an ONNX file in FP16 or BF16, strongly typed: every runtime computes in the types that the file has.

TensorRT 11 has no option for precision any more, so the file must have it. Input and outputs stay float32. Layers
whose values leave the range of float16 on the calibration images stay float32 between casts, and are named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import ExportError
from compressor.exporting.artifact import Artifact
from compressor.exporting.onnx_files import read_model, write_model
from compressor.exporting.options import Asked

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

LARGEST = 65504.0
"""The largest finite number of float16."""
HEADROOM = 2.0
"""Factor of safety: other images may have larger values than the calibration images."""
FLOAT_ONLY = {"Resize": (1, 2), "Upsample": (1,), "QuantizeLinear": (1,), "DequantizeLinear": (1,)}
"""Indices of the inputs that are float32, whatever the type of the data."""
NOT_IN_BFLOAT16 = {"HardSwish", "HardSigmoid"}
"""Operators that NVIDIA's parser accepts in float32 and float16, and refuses in bfloat16."""
STAYING = {"Range", "RandomNormal", "RandomUniform", "NonMaxSuppression", "RoiAlign", "GridSample", "STFT"}
"""Operators that stay float32: a runtime lacks them in half precision, or they count (Range)."""


def to_fp16(source: Path, path: Path, options: Asked) -> Artifact:
    """Write float16, except for layers that would overflow."""
    return _to_half(source, path, options, "fp16")


def to_bf16(source: Path, path: Path, options: Asked) -> Artifact:
    """Write bfloat16, which has the range of float32: no layer overflows."""
    return _to_half(source, path, options, "bf16")


def _to_half(source: Path, path: Path, options: Asked, precision: str) -> Artifact:
    model = read_model(source)
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise ExportError(f"cannot write `{path}` in {precision}: `{source}` is quantised already")
    if precision == "bf16":
        _allow_bfloat16(model, source)
    overflowing = _overflowing(source, model, options) if precision == "fp16" else {}
    unsupported = [node.name for node in model.graph.node if node.op_type in NOT_IN_BFLOAT16]
    unsupported = unsupported if precision == "bf16" else []
    halved(model, precision, frozenset((*overflowing, *unsupported)))
    notes = (
        *(
            f"{name} stays float32: it reaches {value:.3g}, float16 ends at {LARGEST:g}"
            for name, value in overflowing.items()
        ),
        *(f"{name} stays float32: TensorRT does not have it in bfloat16" for name in unsupported),
    )
    return write_model(
        model, path, format=f"onnx-{precision}", precision=precision, notes=notes, precision_of_file=precision
    )


def _allow_bfloat16(model: Any, source: Path) -> None:
    """Raise the opset to 22, the first with bfloat16 convolutions and pools; nothing else changed since opset 20."""
    opset = next(entry for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset.version < 20:
        raise ExportError(
            f"cannot write bf16: `{source}` has opset {opset.version}, expected at least 20",
            "compress export --opset 20, or compress run --set export.opset=20",
        )
    opset.version = max(opset.version, 22)


def _overflowing(source: Path, model: Any, options: Asked) -> dict[str, float]:
    """Map each node that reads, returns or holds a value too large for float16 to that value."""
    import numpy as np
    import onnx

    from compressor.exporting.calibration import checked, largest

    magnitudes = dict(largest(source, checked(options.batches))) if options.batches else {}
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor)
            magnitudes[tensor.name] = float(np.abs(values).max()) if values.size else 0.0
    overflowing = {}
    for node in model.graph.node:
        largest_value = max((magnitudes.get(name, 0.0) for name in (*node.output, *node.input)), default=0.0)
        if largest_value * HEADROOM > LARGEST:
            overflowing[node.name] = largest_value
    return overflowing


def halved(model: Any, precision: str, kept: frozenset[str] = frozenset()) -> None:
    """Rewrite ``model`` in place; the nodes in ``kept`` compute in float32 as before."""
    import onnx

    half = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    _Halving(model.graph, half, kept).rewrite()


class _Halving:
    """Rewrites one graph; ``halves``: tensors that are half so far, ``made``: names of tensors that were converted."""

    def __init__(self, graph: Any, half: int, kept: frozenset[str]) -> None:
        self.graph, self.half, self.kept = graph, half, kept
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.halves: set[str] = set()
        self.made: dict[tuple[str, int], str] = {}
        self.nodes: list[Any] = []
        self.types: Mapping[str, int] = {}

    def rewrite(self) -> None:
        import onnx

        graph = self.graph
        self.types = dict(self._types())
        outputs = {output.name: output for output in graph.output}
        for node in graph.node:
            if any(attribute.HasField("g") for attribute in node.attribute):
                raise ExportError(
                    f"cannot write half precision: `{node.name}` ({node.op_type}) contains a graph (a loop or a branch)"
                )
            stays = node.name in self.kept or node.op_type in STAYING
            target = onnx.TensorProto.FLOAT if stays else self.half
            float_inputs = FLOAT_ONLY.get(node.op_type, ())
            for index, name in enumerate(node.input):
                if name and self._floating(name):
                    kind = onnx.TensorProto.FLOAT if index in float_inputs else target
                    node.input[index] = self._converted(name, kind)
            if not stays:
                self._halve_attributes(node)
            self.nodes.append(node)
            for index, name in enumerate(node.output):
                # An output of the model keeps its name in float32: the node writes a half tensor, then it is cast.
                if name in outputs and not stays and self._floating(name):
                    node.output[index] = f"{name}/half"
                    self.nodes.append(_cast(node.output[index], name, onnx.TensorProto.FLOAT))
                    self.made[name, self.half] = node.output[index]
                elif name and not stays and self._floating(name):
                    self.halves.add(name)
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        read = {name for node in graph.node for name in node.input}
        used = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(used)

    def _types(self) -> Iterator[tuple[str, int]]:
        """Element type of every tensor before the graph is changed."""
        for value in (*self.graph.input, *self.graph.output, *self.graph.value_info):
            yield value.name, value.type.tensor_type.elem_type
        for tensor in self.graph.initializer:
            yield tensor.name, tensor.data_type

    def _floating(self, name: str) -> bool:
        import onnx

        if name not in self.types:
            raise ExportError(f"cannot write half precision: the type of `{name}` is not known")
        return self.types[name] == onnx.TensorProto.FLOAT

    def _converted(self, name: str, kind: int) -> str:
        """Name of the tensor ``name`` in the element type ``kind``: weights are rewritten, other tensors cast once."""
        import onnx

        if (name in self.halves) == (kind == self.half) and name not in self.weights:
            return name
        if name in self.weights and kind == onnx.TensorProto.FLOAT:
            return name
        if (name, kind) not in self.made:
            other = f"{name}/{'half' if kind == self.half else 'float'}"
            if name in self.weights:
                self.graph.initializer.append(_weight(self.weights[name], other, kind))
            else:
                self.nodes.append(_cast(name, other, kind))
            self.made[name, kind] = other
        return self.made[name, kind]

    def _halve_attributes(self, node: Any) -> None:
        import onnx

        for attribute in node.attribute:
            if (
                node.op_type == "Cast"
                and attribute.name in ("to", "dtype")
                and attribute.i == onnx.TensorProto.FLOAT
            ):
                attribute.i = self.half
            elif attribute.HasField("t") and attribute.t.data_type == onnx.TensorProto.FLOAT:
                attribute.t.CopyFrom(_weight(attribute.t, attribute.t.name, self.half))


def _cast(name: str, other: str, kind: int) -> Any:
    import onnx

    return onnx.helper.make_node("Cast", [name], [other], name=f"{other}/Cast", to=kind)


def _weight(tensor: Any, name: str, kind: int) -> Any:
    import numpy as np
    import onnx

    values = onnx.numpy_helper.to_array(tensor)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    with np.errstate(over="ignore"):  # layers that overflow stay float32 and do not read this
        return onnx.numpy_helper.from_array(values.astype(dtype), name)
