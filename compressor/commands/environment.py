"""State of the installation (`compress doctor`): each part with its version, or the command that installs it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from compressor.exporting import NEEDS


@dataclass(frozen=True)
class Finding:
    """One part: ``works`` on this machine or not, the version or reason found, and advice to make it work."""

    part: str
    works: bool
    found: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def examine() -> list[Finding]:
    """Examine every part in ``PARTS``; a part that raises an error is a finding too."""
    return [_examined(part, look) for part, look in PARTS.items()]


def _examined(part: str, look: Callable[[], tuple[bool, str, str]]) -> Finding:
    try:
        works, found, advice = look()
    except Exception as error:  # a broken installation is a finding and may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Finding(part, False, f"broken: {reason}", "reinstall it")
    return Finding(part, works, found, "" if works else advice)


def _python() -> tuple[bool, str, str]:
    return sys.version_info >= (3, 11), sys.version.split()[0], "Python 3.11 or newer is needed"


def _package(name: str, advice: str) -> Callable[[], tuple[bool, str, str]]:
    def look() -> tuple[bool, str, str]:
        try:
            found = version(name)
        except PackageNotFoundError:
            return False, "not installed", advice
        import_module(name)
        return True, found, ""

    return look


def _cuda() -> tuple[bool, str, str]:
    import torch

    advice = "install an NVIDIA driver; on a machine without a GPU everything runs on the CPU"
    if not torch.cuda.is_available():
        return False, "no CUDA device", advice
    major, minor = torch.cuda.get_device_capability()
    return True, f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, sm_{major}{minor}", ""


def _half_precision() -> tuple[bool, str, str]:
    import torch

    from compressor.base.device import choose_device
    from compressor.training import choose_precision

    device = choose_device("auto")
    chosen = choose_precision("auto", device)
    return (
        chosen.name != "fp32",
        f"trains in {chosen.name} on {torch.device(device).type}",
        ("this processor has no bf16 convolutions: training takes about twice as long"),
    )


def _onnxruntime() -> tuple[bool, str, str]:
    import onnxruntime

    return True, f"{onnxruntime.__version__}: {', '.join(onnxruntime.get_available_providers())}", ""


def _tensorrt() -> tuple[bool, str, str]:
    for name in NEEDS["tensorrt"].modules:
        try:
            return True, f"{name} {import_module(name).__version__}", ""
        except (ImportError, OSError):  # bindings without their native library raise OSError
            continue
    return False, "not installed", NEEDS["tensorrt"].install


def _kernel_compiler() -> tuple[bool, str, str]:
    import torch

    advice = "comes with a CUDA build of torch"
    if torch.version.cuda is None:
        return False, "this torch was built without CUDA", advice
    for name in ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu13", "nvidia-cuda-nvrtc-cu12"):
        try:
            return True, f"NVRTC {version(name)}", ""
        except PackageNotFoundError:
            continue
    return False, "NVRTC not found", advice


PARTS: dict[str, Callable[[], tuple[bool, str, str]]] = {
    "Python": _python,
    "torch": _package("torch", "python -m pip install torch"),
    "torchvision": _package("torchvision", "python -m pip install torchvision"),
    "CUDA": _cuda,
    "half precision": _half_precision,
    "onnx": _package("onnx", "python -m pip install onnx"),
    "ONNX Runtime": _onnxruntime,
    "OpenVINO": _package("openvino", NEEDS["openvino"].install),
    "ExecuTorch": _package("executorch", NEEDS["executorch"].install),
    "TensorRT": _tensorrt,
    "kernel compiler": _kernel_compiler,
    "timm": _package("timm", "python -m pip install 'compress-to-edge[timm]', for models named timm:NAME"),
}
