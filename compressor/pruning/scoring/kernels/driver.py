"""Load machine code and launch it, through the CUDA driver that torch itself uses.

Kernels run in torch's own context of a device (its primary context) and on torch's current stream, so they are
ordered with torch's work and can read torch's memory. Nothing here waits for the device. The driver library is loaded
at first use: on a machine without one, importing this module works and `why_no_driver` gives the reason.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from compressor.errors import CompressError


@dataclass(frozen=True)
class Kernel:
    """A function of loaded machine code; it stays loaded until the process ends."""

    name: str
    device: int
    handle: ctypes.c_void_p


def why_no_driver() -> str | None:
    """The reason why no kernel can be launched in this process, or None."""
    try:
        find_driver()
    except CompressError as error:
        return str(error)
    return None


@functools.cache
def find_driver() -> ctypes.CDLL:
    """The CUDA driver's library, ready for use."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise CompressError(
            f"no CUDA driver: cannot load {name} ({error})", "install the GPU's driver"
        ) from error
    _check(library, library.cuInit(0), "starting the CUDA driver")
    return library


def load(code: bytes, names: Sequence[str], device: int) -> dict[str, Kernel]:
    """The named kernels of a cubin, in torch's context of a device."""
    library = find_driver()
    module, kernels = ctypes.c_void_p(), {}
    with _torchs_context(device):
        result = library.cuModuleLoadData(ctypes.byref(module), code)
        _check(library, result, f"loading machine code on CUDA device {device}")
        for name in names:
            function = ctypes.c_void_p()
            result = library.cuModuleGetFunction(ctypes.byref(function), module, name.encode())
            _check(library, result, f"finding the kernel `{name}` in its machine code")
            kernels[name] = Kernel(name, device, function)
    return kernels


def launch(
    kernel: Kernel, blocks: int, threads: int, arguments: Sequence[ctypes._CData], stream: int
) -> None:
    """Queue one launch; ``arguments`` are copied by the driver before this returns."""
    library = find_driver()
    addresses = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(value) for value in arguments))
    with _torchs_context(kernel.device):
        result = library.cuLaunchKernel(
            kernel.handle, blocks, 1, 1, threads, 1, 1, 0, ctypes.c_void_p(stream), addresses, None
        )
    _check(library, result, f"launching `{kernel.name}` with {blocks} blocks of {threads} threads")


@functools.cache
def _primary_context(device: int) -> int:
    library = find_driver()
    handle, context = ctypes.c_int(), ctypes.c_void_p()
    _check(library, library.cuDeviceGet(ctypes.byref(handle), device), f"finding CUDA device {device}")
    result = library.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle)
    _check(library, result, f"entering torch's context of CUDA device {device}")
    return context.value or 0


@contextmanager
def _torchs_context(device: int) -> Iterator[None]:
    # A thread that has not used CUDA yet has no context; a thread that used another device has that device's.
    library, wanted, current = find_driver(), _primary_context(device), ctypes.c_void_p()
    _check(library, library.cuCtxGetCurrent(ctypes.byref(current)), "asking for the current context")
    if current.value == wanted:
        yield
        return
    _check(library, library.cuCtxPushCurrent_v2(ctypes.c_void_p(wanted)), "entering torch's context")
    try:
        yield
    finally:
        library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def _check(library: ctypes.CDLL, result: int, doing: str) -> None:
    if result == 0:
        return
    words = ctypes.c_char_p()
    library.cuGetErrorString(result, ctypes.byref(words))
    reason = words.value.decode() if words.value else f"error {result}"
    raise CompressError(f"{doing}: the CUDA driver says {reason}")
