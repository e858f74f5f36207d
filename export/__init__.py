"""A model on disk that others can run: written, opened again, and proven equal.

    artifact = to_onnx(module, example, Path("student.onnx"))
    session = open_session(artifact.path)
    verdict = compare("onnx", reference, candidate, batches)

Names are resolved on first use, because a command line that only prints its help should
not wait seconds for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .artifact import Artifact
    from .errors import ExportError
    from .formats import FORMATS, Format
    from .onnx import to_onnx
    from .sessions import Session, TensorSpec, open_on_cuda, open_openvino, open_session
    from .verdict import Verdict, compare

__all__ = [
    "FORMATS",
    "Artifact",
    "ExportError",
    "Format",
    "Session",
    "TensorSpec",
    "Verdict",
    "compare",
    "open_on_cuda",
    "open_openvino",
    "open_session",
    "to_onnx",
]

_HOME = {
    "FORMATS": "formats",
    "Artifact": "artifact",
    "ExportError": "errors",
    "Format": "formats",
    "Session": "sessions",
    "TensorSpec": "sessions",
    "Verdict": "verdict",
    "compare": "verdict",
    "open_on_cuda": "sessions",
    "open_openvino": "sessions",
    "open_session": "sessions",
    "to_onnx": "onnx",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
