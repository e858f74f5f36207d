"""The formats a model can be written in. One more format is one more row, and its function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .artifact import Artifact
from .onnx import to_onnx


@dataclass(frozen=True)
class Format:
    """One way to put a model on disk."""

    name: str
    suffix: str
    function: Callable[..., Artifact]


FORMATS: dict[str, Format] = {
    "onnx": Format(
        name="onnx",
        suffix=".onnx",
        function=to_onnx,
    ),
}
