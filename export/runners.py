"""Table of the runtimes that open a file and run it: one row for each one that an artifact is proven in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compressor.exporting.engine_session import open_engine
from compressor.exporting.executorch import open_program
from compressor.exporting.sessions import Session, open_openvino, open_session, open_unfused


@dataclass(frozen=True)
class Runner:
    """A runtime. ``title``: its usual name; ``needs``: a row of ``NEEDS``."""

    title: str
    opens: Callable[[Path], Session]
    needs: str | None = None
    explains: bool = False
    """True if the first layer that differs can be found in it."""


RUNNERS: dict[str, Runner] = {
    "onnxruntime": Runner("ONNX Runtime", open_session, explains=True),
    "onnxruntime-unfused": Runner("ONNX Runtime, unfused", open_unfused, explains=True),
    "openvino": Runner("OpenVINO", open_openvino, "openvino"),
    "tensorrt": Runner("TensorRT", open_engine, "tensorrt"),
    "executorch": Runner("ExecuTorch", open_program, "executorch"),
}
