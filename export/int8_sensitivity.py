"""Find the nodes of an INT8 file that cause its error: quantise each one alone, all others computing in float32."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.exporting.int8_exceptions import quantised_nodes, ways_around
from compressor.exporting.onnx_files import first_input, read_model
from compressor.exporting.test_inputs import in_parts

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


def sensitivities(plain: Path, quantised: Path, images: Array) -> dict[str, float]:
    """Share of the output's energy that each quantised node changes alone, the largest share first.

    ``quantised`` was made from ``plain``. The other nodes bypass their quantise and dequantise nodes, so nothing is
    calibrated again.
    """
    import numpy as np

    model = read_model(quantised)
    source = read_model(plain)
    float_names = ways_around(model, source)
    named = {node.name for node in source.graph.node} - {""}  # nodes of other exporters may have no names
    nodes = [node for node in quantised_nodes(model) if node.name in named]
    for output in model.graph.output:
        output.name = float_names.get(output.name, output.name)
    inputs = [list(node.input) for node in nodes]
    for node, names in zip(nodes, inputs, strict=True):
        node.input[:] = [float_names.get(name, name) for name in names]
    reference = _outputs(model, images)
    energy = float(np.square(reference).sum()) or 1.0
    shares = {}
    for node, names in zip(nodes, inputs, strict=True):
        float_inputs = list(node.input)
        node.input[:] = names
        shares[node.name] = float(np.square(_outputs(model, images) - reference).sum()) / energy
        node.input[:] = float_inputs
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))


def _outputs(model: Any, images: Array) -> Array:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Measure the error of the file, not that of 8-bit kernels.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    input_name, fixed_batch = first_input(model)
    parts = in_parts(images, fixed_batch or 1, fixed_batch)
    outputs = [session.run(None, {input_name: part})[0][:count] for part, count in parts]
    return np.concatenate(outputs).astype(np.float64)
