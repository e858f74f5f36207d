"""The formats a model can be written in. One more format is one more row, and its function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .artifact import Artifact
from .onnx import to_onnx


@dataclass(frozen=True)
class Format:
    """One way to put a model on disk; ``needs`` names the packages that write it."""

    name: str
    description: str
    suffix: str
    function: Callable[..., Artifact]
    needs: tuple[str, ...]


FORMATS: dict[str, Format] = {
    "onnx": Format(
        name="onnx",
        description="ONNX, for ONNX Runtime, OpenVINO and TensorRT",
        suffix=".onnx",
        function=to_onnx,
        needs=("torch", "onnx", "onnxscript"),
    ),
}
