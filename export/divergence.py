"""Where two computations of the same network part: the first value that differs, found by bisection.

Both sides name their values; what is asked of each side is one value at a time, so that nothing has to hold all of
a large network's activations. A difference may heal (a relu that cuts it off), so what is found is a place where
everything before it, as far as looked at, agreed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.errors import ExportError
from compressor.exporting.hygiene import LAYER_NAMES, layers_of
from compressor.exporting.onnx_files import first_input
from compressor.exporting.test_inputs import in_parts

if TYPE_CHECKING:
    from torch import Tensor, nn

    Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Divergence:
    """The first value that is off, and by which share of its largest."""

    name: str
    relative_error: float

    def __str__(self) -> str:
        return f"first differs at `{self.name}`, by {self.relative_error:.2g} of its largest value"


def between_files(trusted: Path, suspect: Path, image: Array, relative_tolerance: float) -> Divergence | None:
    """Of two ONNX files with the same names, such as a file and what was made of it; None if they agree."""
    models = [_loaded(path) for path in (trusted, suspect)]
    there = {name for node in models[1].graph.node for name in node.output}
    names = [name for node in models[0].graph.node for name in node.output if name in there]
    return first_difference(
        names,
        lambda name: (_value(models[0], name, image), _value(models[1], name, image)),
        relative_tolerance,
    )


def from_pytorch(
    network: nn.Module, path: Path, image: Tensor, relative_tolerance: float
) -> Divergence | None:
    """Of a network and its ONNX file, by the names of the network's layers; None if they agree."""
    model = _loaded(path)
    values: dict[str, str] = {}
    for node in model.graph.node:
        noted = next((each.value for each in node.metadata_props if each.key == LAYER_NAMES), "")
        for layer in list(layers_of(noted))[:1]:
            values.pop(layer, None)  # of a layer that is called twice the last call counts, on both sides
            values[layer] = node.output[0]  # the last node of a layer returns what the layer returns
    known = dict(network.named_modules())
    return first_difference(
        [layer for layer in values if layer in known],
        lambda layer: (_asked(network, known[layer], image), _value(model, values[layer], image.numpy())),
        relative_tolerance,
    )


def first_difference(
    names: Sequence[str], values: Callable[[str], tuple[Array, Array]], relative_tolerance: float
) -> Divergence | None:
    """Bisect ``names``, in the order of computation, by whether both sides have the same value."""
    low, high = 0, len(names) - 1
    found: Divergence | None = None
    while low <= high:
        middle = (low + high) // 2
        error = _apart(*values(names[middle]))
        if error > relative_tolerance:
            found, high = Divergence(names[middle], error), middle - 1
        else:
            low = middle + 1
    return found


def _apart(expected: Array, found: Array) -> float:
    """Values of another shape are another quantity, and no difference: a layer that was fused away."""
    if expected.shape != found.shape or not expected.size:
        return 0.0
    apart = float(np.abs(expected.astype(np.float64) - found.astype(np.float64)).max())
    if not np.isfinite(apart):
        return float("inf")
    scale = float(np.abs(expected).max())
    return apart / scale if scale else apart


def _asked(network: nn.Module, layer: nn.Module, image: Tensor) -> Array:
    import torch

    seen: list[Tensor] = []

    def note(_layer: nn.Module, _given: Any, output: Any) -> None:
        seen.append(output.clone())  # the next layer may work in place

    hook = layer.register_forward_hook(note)
    try:
        with torch.no_grad():
            network(image)
    finally:
        hook.remove()
    return seen[-1].numpy() if seen else np.empty(0, np.float32)


def _loaded(path: Path) -> Any:
    import onnx

    try:
        return onnx.load(str(path))
    except Exception as error:  # protobuf and onnx share no base class
        raise ExportError(f"cannot open `{path}`: {type(error).__name__}") from error


def _value(model: Any, name: str, image: Array) -> Array:
    """One inner value, by a session of a copy that returns it."""
    import onnx
    import onnxruntime

    part = onnx.ModelProto()
    part.CopyFrom(model)
    if all(output.name != name for output in part.graph.output):
        part.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    # Otherwise fusions make the value that is looked for.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        part.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    given, fixed = first_input(model)
    ((filled, _),) = in_parts(image, fixed or 1, None)
    return np.asarray(session.run([name], {given: filled})[0])
