"""The images that quantisation looks at: as many as asked for, none of them broken."""

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
    """The batches, or why they cannot be calibrated on."""
    import numpy as np

    kept = tuple(batch for batch in batches if len(batch))
    if not kept:
        raise ExportError(
            "the calibration set is empty", "give images: activations are scaled by what they see"
        )
    for index, batch in enumerate(kept):
        bad = int(batch.size - np.isfinite(batch).sum())
        if bad:
            raise ExportError(
                f"calibration batch {index}: {bad} of {batch.size} values are NaN or infinite",
                "leave such images out: one of them would scale a whole layer",
            )
    return kept


def few_at_a_time(batches: Iterable[Array], fixed: int | None) -> Iterator[Array]:
    """One by one, since all activations of a batch would be gigabytes; or as many as the file insists on."""
    for batch in batches:
        yield from (part for part, _ in in_parts(batch, fixed or 1, fixed or 1))


def largest(path: Path, batches: Sequence[Array]) -> Mapping[str, float]:
    """The largest magnitude of every float value of an ONNX file on these batches."""
    import numpy as np
    import onnx
    import onnxruntime

    model = read_model(path)
    given, fixed = first_input(model)
    known = {output.name for output in model.graph.output}
    inner = [name for node in model.graph.node for name in node.output if name and name not in known]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    # Fusions would take away the values that are looked at.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    found = dict.fromkeys(names, 0.0)
    for part in few_at_a_time(batches, fixed):
        for name, value in zip(names, session.run(names, {given: part}), strict=True):
            if np.issubdtype(value.dtype, np.floating) and value.size:
                found[name] = max(found[name], float(np.abs(value).max()))
    return found
