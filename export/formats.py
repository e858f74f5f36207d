"""Table of the formats that a model can be written in. A new format is a new row and its function.

A row is made from the network (``of`` is None), or from the file of another row.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.exporting.artifact import Artifact
from compressor.exporting.executorch import to_executorch
from compressor.exporting.half import to_bf16, to_fp16
from compressor.exporting.int8 import to_int8_cpu, to_int8_nvidia
from compressor.exporting.onnx import to_onnx
from compressor.exporting.openvino import to_openvino
from compressor.exporting.options import Asked
from compressor.exporting.tensorrt import to_tensorrt

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Format:
    """One way to put a model on disk."""

    name: str
    suffix: str
    precision: str
    function: Callable[..., Artifact]
    runs_in: tuple[str, ...]
    """Rows of ``RUNNERS`` that prove it: the first is required for a proof, the others are used if installed."""
    of: str | None = "onnx"
    calibrated: bool = False
    """True if calibration images are required."""
    needs: str | None = None
    """The row of ``NEEDS`` that is required to write it."""


def to_onnx_as_asked(network: nn.Module, example: Tensor, path: Path, options: Asked) -> Artifact:
    """Call ``to_onnx`` with the signature of a row's function."""
    return to_onnx(
        network, example, path, opset=options.opset, metadata=options.metadata, free_size=options.free_size
    )


_BOTH, _VINO, _TRT = ("onnxruntime", "openvino"), ("openvino",), ("tensorrt",)
# Fused 8-bit kernels of a CPU prove nothing about a file for a GPU.
_AS_WRITTEN = ("onnxruntime-unfused",)

FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format("onnx", ".onnx", "fp32", to_onnx_as_asked, _BOTH, of=None),
        Format("onnx-fp16", ".fp16.onnx", "fp16", to_fp16, _BOTH),
        # ONNX Runtime has no bfloat16 convolution on a CPU.
        Format("onnx-bf16", ".bf16.onnx", "bf16", to_bf16, _VINO),
        Format("onnx-int8", ".int8.onnx", "int8", to_int8_cpu, _BOTH, calibrated=True),
        Format("onnx-int8-nvidia", ".int8-nvidia.onnx", "int8", to_int8_nvidia, _AS_WRITTEN, calibrated=True),
        Format("openvino", ".xml", "fp32", to_openvino, _VINO, needs="openvino"),
        Format(
            "openvino-int8", ".int8.xml", "int8", to_openvino, _VINO, of="onnx-int8", calibrated=True,
            needs="openvino",
        ),
        Format("tensorrt", ".engine", "fp32", to_tensorrt, _TRT, needs="tensorrt"),
        Format("tensorrt-fp16", ".fp16.engine", "fp16", to_tensorrt, _TRT, of="onnx-fp16", needs="tensorrt"),
        Format("tensorrt-bf16", ".bf16.engine", "bf16", to_tensorrt, _TRT, of="onnx-bf16", needs="tensorrt"),
        Format(
            "tensorrt-int8", ".int8.engine", "int8", to_tensorrt, _TRT, of="onnx-int8-nvidia",
            calibrated=True, needs="tensorrt",
        ),
        Format("executorch", ".pte", "fp32", to_executorch, ("executorch",), of=None, needs="executorch"),
    )
}  # fmt: skip


def derived(name: str, onnx: Path, path: Path, options: Asked) -> Artifact:
    """Write the ONNX file ``onnx`` as another format; intermediate files are deleted."""
    row = FORMATS[name]
    assert row.of is not None
    if row.of == "onnx":
        return replace(row.function(onnx, path, options), format=name, precision=row.precision)
    with tempfile.TemporaryDirectory() as folder:
        intermediate = derived(row.of, onnx, Path(folder) / f"{onnx.stem}{FORMATS[row.of].suffix}", options)
        artifact = row.function(intermediate.path, path, options)
    return replace(
        artifact, format=name, precision=row.precision, notes=(*intermediate.notes, *artifact.notes)
    )
