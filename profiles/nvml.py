"""State of one NVIDIA GPU, by NVML: clocks, temperature, power, energy, and the reasons for low clocks.

NVIDIA's management library comes with the driver and is called through ctypes: no package to install, no CUDA
context, nothing is set or locked. A value that a device does not have (a slice of a GPU has no power meter) is None.
Left out: other vendors, and sampling while the work runs.
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
"""Software power cap."""


@dataclass(frozen=True)
class GpuState:
    """State at one moment. ``held_back``: NVML's bit mask of reasons for low clocks; ``energy_mj``: a running total."""

    name: str | None
    sm_mhz: int | None
    memory_mhz: int | None
    temperature_c: int | None
    power_w: float | None
    held_back: int | None
    energy_mj: int | None


def load_library() -> Any:
    """Load and initialise the library; None if there is no NVIDIA driver."""
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        return library if library.nvmlInit_v2() == 0 else None
    return None


def gpu_state(library: Any, index: int) -> GpuState | None:
    """Read the state of the GPU that has the number ``index`` in this process; None if there is none."""
    handle = ctypes.c_void_p()
    place = visible_as(index, os.environ)
    if isinstance(place, int):
        status = library.nvmlDeviceGetHandleByIndex_v2(place, ctypes.byref(handle))
    else:
        status = library.nvmlDeviceGetHandleByUUID(place.encode(), ctypes.byref(handle))
    if status != 0:
        return None
    query = _Query(library, handle)
    power_mw = query.number(ctypes.c_uint, "nvmlDeviceGetPowerUsage")
    held_back = query.number(ctypes.c_ulonglong, "nvmlDeviceGetCurrentClocksEventReasons")
    if held_back is None:  # the name of the function before driver 535
        held_back = query.number(ctypes.c_ulonglong, "nvmlDeviceGetCurrentClocksThrottleReasons")
    return GpuState(
        query.name(),
        query.number(ctypes.c_uint, "nvmlDeviceGetClockInfo", SM_CLOCK),
        query.number(ctypes.c_uint, "nvmlDeviceGetClockInfo", MEMORY_CLOCK),
        query.number(ctypes.c_uint, "nvmlDeviceGetTemperature", DIE),
        None if power_mw is None else power_mw / 1e3,
        held_back,
        query.number(ctypes.c_ulonglong, "nvmlDeviceGetTotalEnergyConsumption"),
    )


def visible_as(index: int, environment: Mapping[str, str]) -> int | str:
    """NVML's index or UUID of CUDA's GPU ``index``: NVML ignores ``CUDA_VISIBLE_DEVICES``."""
    visible = [
        name.strip() for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()
    ]
    if index >= len(visible):
        return index
    return int(visible[index]) if visible[index].isdecimal() else visible[index]


@dataclass(frozen=True)
class _Query:
    """Calls of the library about one device; None for a value that it does not have."""

    library: Any
    handle: ctypes.c_void_p

    def number(self, kind: type[Any], function_name: str, *arguments: int) -> int | None:
        value = kind()
        function = getattr(self.library, function_name, None)
        if function is None or function(self.handle, *arguments, ctypes.byref(value)) != 0:
            return None
        return int(value.value)

    def name(self) -> str | None:
        text = ctypes.create_string_buffer(96)
        failed = self.library.nvmlDeviceGetName(self.handle, text, 96)
        return None if failed else text.value.decode(errors="replace")
