"""Find the first tensor that differs between two computations of the same network, by bisection.

Both sides name their tensors and compute one at a time, so that the activations of a large network are never all in
memory. A later layer may remove a difference (a relu that cuts it off), so the result is a tensor before which all
tensors that were compared agreed.
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
    """First tensor that differs; ``relative_error``: largest difference as a share of its largest value."""

    name: str
    relative_error: float

    def __str__(self) -> str:
        return f"first differs at `{self.name}`, by {self.relative_error:.2g} of its largest value"


def between_files(trusted: Path, suspect: Path, image: Array, relative_tolerance: float) -> Divergence | None:
    """Compare two ONNX files with the same names, such as a file and one made from it; None if they agree."""
    models = [_loaded(path) for path in (trusted, suspect)]
    suspect_names = {name for node in models[1].graph.node for name in node.output}
    names = [name for node in models[0].graph.node for name in node.output if name in suspect_names]
    return first_difference(
        names,
        lambda name: (_tensor_value(models[0], name, image), _tensor_value(models[1], name, image)),
        relative_tolerance,
    )


def from_pytorch(
    network: nn.Module, path: Path, image: Tensor, relative_tolerance: float
) -> Divergence | None:
    """Compare a network with its ONNX file by the names of the network's layers; None if they agree."""
    model = _loaded(path)
    values: dict[str, str] = {}
    for node in model.graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == LAYER_NAMES), "")
        for layer in list(layers_of(scopes))[:1]:
            values.pop(layer, None)  # for a layer called twice the last call counts, on both sides
            values[layer] = node.output[0]  # the output of a layer's last node is the layer's output
    modules = dict(network.named_modules())
    return first_difference(
        [layer for layer in values if layer in modules],
        lambda layer: (
            _layer_output(network, modules[layer], image),
            _tensor_value(model, values[layer], image.numpy()),
        ),
        relative_tolerance,
    )


def first_difference(
    names: Sequence[str], values: Callable[[str], tuple[Array, Array]], relative_tolerance: float
) -> Divergence | None:
    """Bisect ``names``, in the order of computation, for the first one with different values on the two sides."""
    low, high = 0, len(names) - 1
    first: Divergence | None = None
    while low <= high:
        middle = (low + high) // 2
        error = _relative_error(*values(names[middle]))
        if error > relative_tolerance:
            first, high = Divergence(names[middle], error), middle - 1
        else:
            low = middle + 1
    return first


def _relative_error(expected: Array, actual: Array) -> float:
    """Relative error; 0 for another shape, which is another quantity and no difference: the layer was fused away."""
    if expected.shape != actual.shape or not expected.size:
        return 0.0
    difference = float(np.abs(expected.astype(np.float64) - actual.astype(np.float64)).max())
    if not np.isfinite(difference):
        return float("inf")
    scale = float(np.abs(expected).max())
    return difference / scale if scale else difference


def _layer_output(network: nn.Module, layer: nn.Module, image: Tensor) -> Array:
    import torch

    outputs: list[Tensor] = []

    def record(_layer: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append(output.clone())  # the next layer may work in place

    hook = layer.register_forward_hook(record)
    try:
        with torch.no_grad():
            network(image)
    finally:
        hook.remove()
    return outputs[-1].numpy() if outputs else np.empty(0, np.float32)


def _loaded(path: Path) -> Any:
    import onnx

    try:
        return onnx.load(str(path))
    except Exception as error:  # protobuf and onnx share no base class
        raise ExportError(f"cannot open `{path}`: {type(error).__name__}") from error


def _tensor_value(model: Any, name: str, image: Array) -> Array:
    """Compute one inner tensor, with a copy of the model that returns it."""
    import onnx
    import onnxruntime

    part = onnx.ModelProto()
    part.CopyFrom(model)
    if all(output.name != name for output in part.graph.output):
        part.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    # Fusion would remove the tensor or compute it in another way.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        part.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    input_name, fixed_batch = first_input(model)
    ((batch, _),) = in_parts(image, fixed_batch or 1, None)
    return np.asarray(session.run([name], {input_name: batch})[0])
