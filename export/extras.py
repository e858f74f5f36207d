"""Optional libraries and how to install them: one row for each library that a format or a runtime needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from compressor.errors import NotHereError


@dataclass(frozen=True)
class Need:
    """A library: ``modules``, of which one must be installed, and the command that installs it."""

    title: str
    modules: tuple[str, ...]
    install: str
    found: Callable[[str], bool]
    """True if a module is usable. Importing some takes seconds; others are installed without their native library."""

    @property
    def missing(self) -> bool:
        """True if none of its modules is usable."""
        return not any(map(self.found, self.modules))


def _listed(module: str) -> bool:
    return find_spec(module) is not None


def _loads(module: str) -> bool:
    try:
        import_module(module)
    except (ImportError, OSError):
        return False
    return True


def _runs_on_cuda(module: str) -> bool:
    try:
        return "CUDAExecutionProvider" in import_module(module).get_available_providers()
    except (ImportError, AttributeError):
        return False


NEEDS: dict[str, Need] = {
    "onnxruntime-cuda": Need(
        "ONNX Runtime for CUDA",
        ("onnxruntime",),
        "python -m pip install onnxruntime-gpu in place of onnxruntime",
        _runs_on_cuda,
    ),
    "openvino": Need(
        "OpenVINO", ("openvino",), "python -m pip install 'compress-to-edge[openvino]'", _listed
    ),
    "executorch": Need(
        "ExecuTorch", ("executorch",), "python -m pip install 'compress-to-edge[executorch]'", _listed
    ),
    "tensorrt": Need(
        "TensorRT",
        ("tensorrt", "tensorrt_rtx"),
        "python -m pip install tensorrt (needs an NVIDIA GPU), or tensorrt-rtx (builds without one)",
        _loads,  # the Python bindings do not work without their native libraries
    ),
}


def require(name: str, doing: str) -> None:
    """Raise an error if the library ``name`` is not installed; ``doing`` is the work that needs it."""
    need = NEEDS[name]
    if need.missing:
        raise NotHereError(f"cannot {doing}: {need.title} is not installed", need.install)


def load_tensorrt(doing: str) -> Any:
    """Import `tensorrt`, or else `tensorrt_rtx`, which has the same interface."""
    require("tensorrt", doing)
    return import_module(next(filter(_loads, NEEDS["tensorrt"].modules)))
