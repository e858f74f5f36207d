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
    from .asked import Asked, EngineAsk
    from .divergence import Divergence, between_files, from_pytorch
    from .engine_inspect import EngineLayer, engine_layers
    from .engine_run import Engine, load_engine, open_engine
    from .errors import ExportError, NotHereError
    from .executorch import open_program
    from .feeds import hard_batches, real_batches
    from .formats import FORMATS, Format, derived
    from .needs import NEEDS, Need
    from .onnx import to_onnx
    from .runners import RUNNERS, Runner
    from .sensitivity import sensitivities
    from .sessions import Session, TensorSpec, open_on_cuda, open_openvino, open_session
    from .untrusted import check_file, open_stranger
    from .verdict import TOLERANCES, Verdict, compare

__all__ = [
    "FORMATS",
    "NEEDS",
    "RUNNERS",
    "TOLERANCES",
    "Artifact",
    "Asked",
    "Divergence",
    "Engine",
    "EngineAsk",
    "EngineLayer",
    "ExportError",
    "Format",
    "Need",
    "NotHereError",
    "Runner",
    "Session",
    "TensorSpec",
    "Verdict",
    "between_files",
    "check_file",
    "compare",
    "derived",
    "engine_layers",
    "from_pytorch",
    "hard_batches",
    "load_engine",
    "open_engine",
    "open_on_cuda",
    "open_openvino",
    "open_program",
    "open_session",
    "open_stranger",
    "real_batches",
    "sensitivities",
    "to_onnx",
]

_HOME = {
    "FORMATS": "formats",
    "NEEDS": "needs",
    "RUNNERS": "runners",
    "TOLERANCES": "verdict",
    "Artifact": "artifact",
    "Asked": "asked",
    "Divergence": "divergence",
    "Engine": "engine_run",
    "EngineAsk": "asked",
    "EngineLayer": "engine_inspect",
    "ExportError": "errors",
    "Format": "formats",
    "Need": "needs",
    "NotHereError": "errors",
    "Runner": "runners",
    "Session": "sessions",
    "TensorSpec": "sessions",
    "Verdict": "verdict",
    "between_files": "divergence",
    "check_file": "untrusted",
    "compare": "verdict",
    "derived": "formats",
    "engine_layers": "engine_inspect",
    "from_pytorch": "divergence",
    "hard_batches": "feeds",
    "load_engine": "engine_run",
    "open_engine": "engine_run",
    "open_on_cuda": "sessions",
    "open_openvino": "sessions",
    "open_program": "executorch",
    "open_session": "sessions",
    "open_stranger": "untrusted",
    "real_batches": "feeds",
    "sensitivities": "sensitivity",
    "to_onnx": "onnx",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
