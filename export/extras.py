"""What is not installed with us, and how it is: one row for each library that a format or a runtime needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from compressor.errors import NotHereError


@dataclass(frozen=True)
class Need:
    """A library: ``modules`` of which one has to be there, and the command that installs it."""

    title: str
    modules: tuple[str, ...]
    install: str
    found: Callable[[str], bool]
    """Whether a module is there; to import some takes seconds, and of others the library may be missing below."""

    @property
    def missing(self) -> bool:
        """Whether none of its modules is there."""
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
        _loads,  # the bindings alone, without their libraries, are as good as none
    ),
}


def require(name: str, doing: str) -> None:
    """Refuse what cannot be done without the library ``name``."""
    need = NEEDS[name]
    if need.missing:
        raise NotHereError(f"cannot {doing}: {need.title} is not installed", need.install)


def load_tensorrt(doing: str) -> Any:
    """`tensorrt`, or else `tensorrt_rtx`: the two have one interface."""
    require("tensorrt", doing)
    return import_module(next(filter(_loads, NEEDS["tensorrt"].modules)))
