"""Choose the floating-point precision of a training on a device, with the reason.

The choice depends on the machine alone and never on a timing, so that a run can be repeated
exactly. Parameters stay float32 in every case; only the arithmetic of the layers has fewer bits.
Not implemented: float8, and bf16 on Arm CPUs, where nothing was measured yet.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import UsageError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_NATIVE_BF16 = ("avx512_bf16", "amx_bf16")


@dataclass(frozen=True)
class Precision:
    """`fp32`, `bf16` or `fp16`, and the reason that the user is shown."""

    name: str
    reason: str


def choose_precision(setting: str, device: torch.device) -> Precision:
    """The precision for ``setting`` (`auto`, `fp32`, `bf16`, `fp16`) on this device.

    A precision that is set by name and impossible is an error. bf16 on a CPU without the
    instructions is possible, only slow, so it is accepted.
    """
    if setting == "auto":
        return _automatic(device)
    if setting == "fp16" and device.type != "cuda":
        raise UsageError(
            f"precision `fp16` needs a CUDA device, this is `{device.type}`",
            "use `auto`, which takes the fastest precision that is safe here",
        )
    if setting == "bf16" and not (device.type == "cpu" or _cuda_with_bf16(device)):
        raise UsageError(f"device `{device}` does not compute bf16", "use `auto` or `fp32`")
    return Precision(setting, "asked for")


@dataclass(frozen=True)
class Arithmetic:
    """The device of a training, its precision, and the memory layout of images and weights."""

    device: torch.device
    precision: Precision

    @staticmethod
    def on(device: torch.device, setting: str) -> Arithmetic:
        """The arithmetic for this precision setting on this device."""
        return Arithmetic(device, choose_precision(setting, device))

    @property
    def layout(self) -> torch.memory_format:
        """Channels last, except on MPS: the bf16 kernels of CPU and CUDA need it to be fast."""
        return torch.contiguous_format if self.device.type == "mps" else torch.channels_last

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which a network's forward pass runs."""
        if self.precision.name == "fp32":  # also switches off an autocast of the caller
            return torch.autocast(self.device.type, enabled=False)
        return torch.autocast(self.device.type, _DTYPES[self.precision.name])

    def copy(self, network: nn.Module) -> nn.Module:
        """A copy of the network to train on this device: float32, in the layout."""
        copied = copy.deepcopy(network).to(self.device, torch.float32)
        for tensor in (*copied.parameters(), *copied.buffers()):
            if tensor.ndim == 4:  # `.to(memory_format=…)` fails for tensors with five axes
                tensor.data = tensor.data.contiguous(memory_format=self.layout)
        return copied

    def images(self, images: Tensor) -> Tensor:
        """Copy images to the device, in the layout."""
        return images.to(self.device, non_blocking=True, memory_format=self.layout)


def _automatic(device: torch.device) -> Precision:
    if device.type == "cuda":
        if _cuda_with_bf16(device):
            return Precision("bf16", "the GPU computes bf16")
        return Precision("fp32", "the GPU does not compute bf16")
    if device.type == "cpu":
        native = [name for name in _NATIVE_BF16 if name in _cpu_features()]
        if native and torch.backends.mkldnn.is_available():
            return Precision("bf16", f"the CPU computes bf16 ({native[0]})")
        return Precision("fp32", "the CPU would only emulate bf16")
    return Precision("fp32", f"nothing narrower is known to be safe on `{device.type}`")


def _cuda_with_bf16(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def _cpu_features() -> frozenset[str]:
    """Instruction sets by their cpuid names, from torch or, if it has no such function, from Linux."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        return frozenset(name for name, present in capabilities().items() if present is True)
    try:
        words = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return frozenset()
    return frozenset(words)
