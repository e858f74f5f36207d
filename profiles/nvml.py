"""What one NVIDIA GPU says of itself: clocks, temperature, power, energy, and what holds its clocks down.

NVIDIA's management library comes with the driver, so it is called as it is, through ctypes: no package to install, no
CUDA context, nothing set or locked. A question that a device does not answer (a slice of a GPU has no power meter of
its own) is None. Left out: every other vendor, and sampling while the work runs.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LIBRARIES = ("libnvidia-ml.so.1", "nvml.dll")
SM_CLOCK, MEMORY_CLOCK, DIE = 1, 2, 0

THROTTLED = 0x8 | 0x20 | 0x40 | 0x80
"""Hardware slow-down, software thermal, hardware thermal, hardware power brake."""
POWER_LIMITED = 0x4


@dataclass(frozen=True)
class GpuState:
    """One moment. ``held_back`` is NVML's bit mask of what holds the clocks down; ``energy_mj`` counts up forever."""

    name: str | None
    sm_mhz: int | None
    memory_mhz: int | None
    temperature_c: int | None
    power_w: float | None
    held_back: int | None
    energy_mj: int | None


def load_library() -> Any:
    """The library, started; None where there is no NVIDIA driver."""
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        return library if library.nvmlInit_v2() == 0 else None
    return None


def gpu_state(library: Any, index: int) -> GpuState | None:
    """The state of the GPU that this process knows as ``index``; None if there is none."""
    handle = ctypes.c_void_p()
    place = visible_as(index, os.environ)
    if isinstance(place, int):
        found = library.nvmlDeviceGetHandleByIndex_v2(place, ctypes.byref(handle))
    else:
        found = library.nvmlDeviceGetHandleByUUID(place.encode(), ctypes.byref(handle))
    if found != 0:
        return None
    ask = _Asking(library, handle)
    power_mw = ask.number(ctypes.c_uint, "nvmlDeviceGetPowerUsage")
    held_back = ask.number(ctypes.c_ulonglong, "nvmlDeviceGetCurrentClocksEventReasons")
    if held_back is None:  # its name before driver 535
        held_back = ask.number(ctypes.c_ulonglong, "nvmlDeviceGetCurrentClocksThrottleReasons")
    return GpuState(
        ask.name(),
        ask.number(ctypes.c_uint, "nvmlDeviceGetClockInfo", SM_CLOCK),
        ask.number(ctypes.c_uint, "nvmlDeviceGetClockInfo", MEMORY_CLOCK),
        ask.number(ctypes.c_uint, "nvmlDeviceGetTemperature", DIE),
        None if power_mw is None else power_mw / 1e3,
        held_back,
        ask.number(ctypes.c_ulonglong, "nvmlDeviceGetTotalEnergyConsumption"),
    )


def visible_as(index: int, environment: Mapping[str, str]) -> int | str:
    """NVML's name for the GPU that CUDA calls ``index``: it does not know what the environment hides."""
    chosen = [each.strip() for each in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if each.strip()]
    if index >= len(chosen):
        return index
    return int(chosen[index]) if chosen[index].isdecimal() else chosen[index]


@dataclass(frozen=True)
class _Asking:
    library: Any
    handle: ctypes.c_void_p

    def number(self, kind: type[Any], question: str, *which: int) -> int | None:
        answer = kind()
        function = getattr(self.library, question, None)
        if function is None or function(self.handle, *which, ctypes.byref(answer)) != 0:
            return None
        return int(answer.value)

    def name(self) -> str | None:
        text = ctypes.create_string_buffer(96)
        failed = self.library.nvmlDeviceGetName(self.handle, text, 96)
        return None if failed else text.value.decode(errors="replace")
