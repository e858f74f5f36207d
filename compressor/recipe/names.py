"""Names that a recipe may hold: runtimes, precisions, file formats, combinations of scores.

A recipe is plain data and imports nothing from the packages above it. Their tables have one row for each of these
names; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable

from compressor.errors import unknown_name

ALL = "all"
"""Every runtime, or every format, that can be used on this machine."""
AUTO = "auto"
"""In ``export.to``: ONNX, and an engine where TensorRT is installed."""

RUNTIME_NAMES = (
    "pytorch",
    "torch-compile",
    "pytorch-cuda",
    "onnxruntime",
    "onnxruntime-cuda",
    "openvino",
    "tensorrt",
    "executorch",
)
RUNTIME_ALIASES = {
    "torch": "pytorch",
    "torch-cuda": "pytorch-cuda",
    "ort": "onnxruntime",
    "ort-cuda": "onnxruntime-cuda",
    "trt": "tensorrt",
}
DEFAULT_RUNTIMES = ("pytorch", "onnxruntime")
"""Runtimes of a run, which has networks and their files."""
RUNTIME_PRECISIONS = ("fp32", "fp16", "bf16")

FORMAT_NAMES = (
    "onnx",
    "onnx-fp16",
    "onnx-bf16",
    "onnx-int8",
    "onnx-int8-nvidia",
    "openvino",
    "openvino-int8",
    "tensorrt",
    "tensorrt-fp16",
    "tensorrt-bf16",
    "tensorrt-int8",
    "executorch",
)
INT8_WEIGHT_BITS = (7, 8)

COMBINATIONS = ("sum", "mean", "max", "first")
NORMALISATIONS = ("none", "mean", "max", "per-macs")


def runtimes_named(names: Iterable[str]) -> tuple[str, ...]:
    """The names in ``RUNTIME_NAMES`` that these mean, each once; ``all`` is every one."""
    found: list[str] = []
    for name in names:
        if name != ALL and RUNTIME_ALIASES.get(name, name) not in RUNTIME_NAMES:
            raise unknown_name("runtime", name, [*RUNTIME_NAMES, *RUNTIME_ALIASES, ALL])
        found += RUNTIME_NAMES if name == ALL else [RUNTIME_ALIASES.get(name, name)]
    return tuple(dict.fromkeys(found))
