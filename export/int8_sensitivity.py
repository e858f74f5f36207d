"""Which nodes of an INT8 file do the harm: each is quantised alone, all others computing in float32."""

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
    """For each quantised node the share of the output's energy that it changes alone, the most harmful first.

    ``quantised`` was made of ``plain``. Nodes are led around their pairs of quantising and dequantising, so nothing is
    calibrated again.
    """
    import numpy as np

    model = read_model(quantised)
    source = read_model(plain)
    around = ways_around(model, source)
    known = {node.name for node in source.graph.node} - {""}  # a file of another maker may name nothing
    nodes = [node for node in quantised_nodes(model) if node.name in known]
    for output in model.graph.output:
        output.name = around.get(output.name, output.name)
    inputs = [list(node.input) for node in nodes]
    for node, names in zip(nodes, inputs, strict=True):
        node.input[:] = [around.get(name, name) for name in names]
    reference = _answers(model, images)
    energy = float(np.square(reference).sum()) or 1.0
    found = {}
    for node, names in zip(nodes, inputs, strict=True):
        whole = list(node.input)
        node.input[:] = names
        found[node.name] = float(np.square(_answers(model, images) - reference).sum()) / energy
        node.input[:] = whole
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def _answers(model: Any, images: Array) -> Array:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry(
        "session.disable_quant_qdq", "1"
    )  # the file's own harm, not the kernels'
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    given, fixed = first_input(model)
    parts = in_parts(images, fixed or 1, fixed)
    found = [session.run(None, {given: part})[0][:own] for part, own in parts]
    return np.concatenate(found).astype(np.float64)
