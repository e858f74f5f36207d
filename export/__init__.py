"""Export a network to files that other runtimes read, open the files again and prove them equal to the network.

    artifact = to_onnx(module, example, Path("student.onnx"))
    session = open_session(artifact.path)
    verdict = compare("onnx", reference, candidate, batches)

Names are imported on first use: a command line that only prints its help must not wait
seconds for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressor.exporting.artifact import Artifact
    from compressor.exporting.divergence import Divergence, between_files, from_pytorch
    from compressor.exporting.engine_inspect import EngineLayer, engine_layers
    from compressor.exporting.engine_session import Engine, load_engine, open_engine
    from compressor.exporting.executorch import open_program
    from compressor.exporting.extras import NEEDS, Need
    from compressor.exporting.formats import FORMATS, Format, derived
    from compressor.exporting.int8_sensitivity import sensitivities
    from compressor.exporting.onnx import to_onnx
    from compressor.exporting.options import Asked, EngineAsk
    from compressor.exporting.runners import RUNNERS, Runner
    from compressor.exporting.sessions import Session, TensorSpec, open_on_cuda, open_openvino, open_session
    from compressor.exporting.test_inputs import hard_batches, real_batches
    from compressor.exporting.untrusted import check_file, open_stranger
    from compressor.exporting.verdict import TOLERANCES, Verdict, compare

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
    "Format",
    "Need",
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

_MODULES = {
    "FORMATS": "formats",
    "NEEDS": "extras",
    "RUNNERS": "runners",
    "TOLERANCES": "verdict",
    "Artifact": "artifact",
    "Asked": "options",
    "Divergence": "divergence",
    "Engine": "engine_session",
    "EngineAsk": "options",
    "EngineLayer": "engine_inspect",
    "Format": "formats",
    "Need": "extras",
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
    "hard_batches": "test_inputs",
    "load_engine": "engine_session",
    "open_engine": "engine_session",
    "open_on_cuda": "sessions",
    "open_openvino": "sessions",
    "open_program": "executorch",
    "open_session": "sessions",
    "open_stranger": "untrusted",
    "real_batches": "test_inputs",
    "sensitivities": "int8_sensitivity",
    "to_onnx": "onnx",
}
"""The module that each public name is imported from."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
