"""The formats a model can be written in. One more format is one more row, and its function.

`onnx` is written from a network; every other row is made of another row's file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from .artifact import Artifact
from .asked import Asked
from .engine_run import open_engine
from .half import to_bf16, to_fp16
from .int8 import to_int8_cpu, to_int8_nvidia
from .onnx import to_onnx
from .openvino import to_openvino
from .sessions import Session, open_openvino, open_session
from .tensorrt import to_tensorrt


@dataclass(frozen=True)
class Format:
    """One way to put a model on disk. ``of``: the format it is made of; none means the network itself."""

    name: str
    suffix: str
    precision: str
    function: Callable[..., Artifact]
    opens: Callable[[Path], Session]
    """What runs the file here, so that it can be proven."""
    of: str | None = "onnx"
    calibrated: bool = False
    """Whether it cannot be made without images."""


FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format("onnx", ".onnx", "fp32", to_onnx, open_session, of=None),
        Format("onnx-fp16", ".fp16.onnx", "fp16", to_fp16, open_session),
        # ONNX Runtime has no bfloat16 convolution on a CPU.
        Format("onnx-bf16", ".bf16.onnx", "bf16", to_bf16, open_openvino),
        Format("onnx-int8", ".int8.onnx", "int8", to_int8_cpu, open_session, calibrated=True),
        Format("onnx-int8-nvidia", ".int8-nvidia.onnx", "int8", to_int8_nvidia, open_session, calibrated=True),
        Format("openvino", ".xml", "fp32", to_openvino, open_openvino),
        Format("openvino-int8", ".int8.xml", "int8", to_openvino, open_openvino, of="onnx-int8", calibrated=True),
        Format("tensorrt", ".engine", "fp32", to_tensorrt, open_engine),
        Format("tensorrt-fp16", ".fp16.engine", "fp16", to_tensorrt, open_engine, of="onnx-fp16"),
        Format("tensorrt-bf16", ".bf16.engine", "bf16", to_tensorrt, open_engine, of="onnx-bf16"),
        Format(
            "tensorrt-int8", ".int8.engine", "int8", to_tensorrt, open_engine, of="onnx-int8-nvidia",
            calibrated=True,
        ),
    )
}  # fmt: skip


def derived(name: str, onnx: Path, path: Path, asked: Asked) -> Artifact:
    """Write the ONNX file ``onnx`` as another format; what lies between is thrown away."""
    row = FORMATS[name]
    assert row.of is not None
    if row.of == "onnx":
        return replace(row.function(onnx, path, asked), format=name, precision=row.precision)
    with tempfile.TemporaryDirectory() as folder:
        between = derived(row.of, onnx, Path(folder) / f"{onnx.stem}{FORMATS[row.of].suffix}", asked)
        made = row.function(between.path, path, asked)
    return replace(made, format=name, precision=row.precision, notes=(*between.notes, *made.notes))
