"""Read an ONNX file, to be rewritten in another precision, and write the result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.errors import ExportError
from compressor.exporting.artifact import Artifact, appearing_whole, describe

ROOM = 1_900_000_000
"""Largest supported size in bytes: the limit of a protobuf file, less some room for the graph."""


def read_model(path: Path) -> Any:
    """Read a model with its weights; files above 1.9 GB are refused."""
    import onnx

    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf, onnx and the file system share no base class
        fact = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"cannot open `{path}`: {fact[0]}") from error
    if model.ByteSize() > ROOM:
        raise ExportError(
            f"cannot rewrite `{path}`: {model.ByteSize():,} bytes, at most {ROOM:,} are supported"
        )
    return model


def first_input(model: Any) -> tuple[str, int | None]:
    """Name of a model's input and its fixed batch size, None if free; weights may be listed as inputs too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    model_input = next((value for value in model.graph.input if value.name not in weights), None)
    if model_input is None:
        raise ExportError("the model has no input")
    sizes = model_input.type.tensor_type.shape.dim
    return model_input.name, (sizes[0].dim_value if sizes else 0) or None


def write_model(
    model: Any, path: Path, *, format: str, precision: str, notes: tuple[str, ...] = (), **facts: str
) -> Artifact:
    """Check the model, write it to ``path``, and describe it; ``facts`` are added to the file's metadata."""
    import onnx

    metadata = {entry.key: entry.value for entry in model.metadata_props} | facts
    _set_metadata(model, metadata)
    data = model.SerializeToString(deterministic=True)
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        fact = str(error).strip().splitlines()[0]
        raise ExportError(f"the ONNX checker refuses `{path}`: {fact}") from error
    with appearing_whole(path) as scratch:
        scratch.write_bytes(data)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return describe(path, format=format, precision=precision, opset=opset, notes=notes)


def _set_metadata(model: Any, facts: Mapping[str, str]) -> None:
    import onnx

    del model.metadata_props[:]
    model.metadata_props.extend(
        onnx.StringStringEntryProto(key=key, value=facts[key]) for key in sorted(facts)
    )
