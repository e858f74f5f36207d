"""Calibration images of INT8 and FP16: validate them, split them, and measure the largest value of each tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import ExportError
from compressor.exporting.onnx_files import first_input, read_model
from compressor.exporting.test_inputs import in_parts

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


def checked(batches: Iterable[Array]) -> tuple[Array, ...]:
    """Return the batches that are not empty; raise an error if there are none or if a value is not finite."""
    import numpy as np

    kept = tuple(batch for batch in batches if len(batch))
    if not kept:
        raise ExportError(
            "the calibration set is empty", "give images: the scales of activations are measured on them"
        )
    for index, batch in enumerate(kept):
        bad = int(batch.size - np.isfinite(batch).sum())
        if bad:
            raise ExportError(
                f"calibration batch {index}: {bad} of {batch.size} values are NaN or infinite",
                "remove such images: one of them would set the scale of a whole layer",
            )
    return kept


def few_at_a_time(batches: Iterable[Array], fixed_batch: int | None) -> Iterator[Array]:
    """Yield single images, as the activations of a batch can take gigabytes; or batches of the file's fixed size."""
    for batch in batches:
        yield from (part for part, _ in in_parts(batch, fixed_batch or 1, fixed_batch or 1))


def largest(path: Path, batches: Sequence[Array]) -> Mapping[str, float]:
    """Measure the largest magnitude of every float tensor of an ONNX file on these batches."""
    import numpy as np
    import onnx
    import onnxruntime

    model = read_model(path)
    input_name, fixed_batch = first_input(model)
    outputs = {output.name for output in model.graph.output}
    inner = [name for node in model.graph.node for name in node.output if name and name not in outputs]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    # Fusion would remove the inner tensors that are measured here.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    largest_values = dict.fromkeys(names, 0.0)
    for part in few_at_a_time(batches, fixed_batch):
        for name, value in zip(names, session.run(names, {input_name: part}), strict=True):
            if np.issubdtype(value.dtype, np.floating) and value.size:
                largest_values[name] = max(largest_values[name], float(np.abs(value).max()))
    return largest_values
