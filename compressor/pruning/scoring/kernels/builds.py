"""The builds of `channel_saliency.cu`: one for each set of moments, number type and width of loads.

These options are constants of a build and not arguments of the kernel: with the type as a run-time branch the
compiler turned nearly all 16-byte loads into small ones. A build is compiled when it is first needed (some tenths of
a second, then from the cache folder) and stays loaded.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources

import torch

from compressor.errors import CompressError
from compressor.pruning.scoring.kernels import driver, nvrtc
from compressor.pruning.scoring.kernels.tiles import SCALARS

NAME = "channel_saliency"
KERNELS = ("weight_tiles", "weight_totals", "gate_rows", "gate_columns", "gate_totals")
SCALAR_OF = {getattr(torch, name): number for name, number in SCALARS.items()}


@dataclass(frozen=True)
class Instance:
    """One build: which moments (bits as in `tiles.MOMENTS`), which of `tiles.SCALARS`, 16-byte loads or single."""

    moments: int
    scalar: int
    vector: bool

    def options(self) -> tuple[str, ...]:
        chosen = (f"-DMOMENTS={self.moments}", f"-DSCALAR={self.scalar}", f"-DVECTOR={int(self.vector)}")
        return (*nvrtc.COMMON_OPTIONS, *chosen)


@functools.cache
def source() -> str:
    return resources.files(__package__).joinpath(f"{NAME}.cu").read_text(encoding="utf-8")


def architecture(device: int) -> str:
    """The compiler's name of a CUDA device's architecture, as ``sm_90``."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


@functools.cache
def loaded(device: int, instance: Instance) -> dict[str, driver.Kernel]:
    """The kernels of one build, ready on a device."""
    built = nvrtc.cubin(source(), architecture(device), instance.options(), NAME)
    return driver.load(built.code, KERNELS, device)


@functools.cache
def why_not_on(device: int) -> str | None:
    """The reason why no kernel can be compiled or loaded for a CUDA device, or None; tried once."""
    try:
        loaded(device, Instance(moments=1, scalar=0, vector=True))
    except CompressError as error:
        return str(error)
    except OSError as error:
        return f"cannot read the kernel's source: {error}"
    return None


def described(shape: torch.Size, strides: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> str:
    """A tensor's type, shape and device, for error messages."""
    return f"{str(dtype).removeprefix('torch.')} {list(shape)} on {device}"
