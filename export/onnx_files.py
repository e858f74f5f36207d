"""An ONNX file that was written by us, read to be rewritten in another precision, and written again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.errors import ExportError
from compressor.exporting.artifact import Artifact, appearing_whole, describe

ROOM = 1_900_000_000
"""Bytes that one protobuf file may have, less some room for the graph."""


def read_model(path: Path) -> Any:
    """The model with its weights; files above 2 GB are not rewritten."""
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
    """The name of what a model is given, and the batch that it insists on; weights may be listed as inputs too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    given = next((each for each in model.graph.input if each.name not in weights), None)
    if given is None:
        raise ExportError("the model takes no input")
    sizes = given.type.tensor_type.shape.dim
    return given.name, (sizes[0].dim_value if sizes else 0) or None


def write_model(
    model: Any, path: Path, *, format: str, precision: str, notes: tuple[str, ...] = (), **facts: str
) -> Artifact:
    """Check the model, write it under its name, and describe it; ``facts`` go into the file."""
    import onnx

    known = {each.key: each.value for each in model.metadata_props} | facts
    _set_metadata(model, known)
    data = model.SerializeToString(deterministic=True)
    try:
        onnx.checker.check_model(data, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        fact = str(error).strip().splitlines()[0]
        raise ExportError(f"the ONNX checker refuses `{path}`: {fact}") from error
    with appearing_whole(path) as scratch:
        scratch.write_bytes(data)
    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    return describe(path, format=format, precision=precision, opset=opset, notes=notes)


def _set_metadata(model: Any, facts: Mapping[str, str]) -> None:
    import onnx

    del model.metadata_props[:]
    model.metadata_props.extend(
        onnx.StringStringEntryProto(key=key, value=facts[key]) for key in sorted(facts)
    )
