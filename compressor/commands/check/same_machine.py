"""Is this the machine that a baseline was written on? Time says little about the same file elsewhere.

Both sides are measured here and now whatever the answer is, so the ratio is true of this machine. But whether a
candidate may be slower than its baseline was decided for another one: kernels are chosen by instruction sets, and a
network that is faster on one processor can be slower on the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from compressor.profiling import Reason

Device = Mapping[str, Any]

FIELDS: dict[str, Callable[[Device], object]] = {
    "CPU": lambda device: device.get("cpu"),
    "architecture": lambda device: device.get("architecture"),
    "instruction sets": lambda device: device.get("instruction_sets"),
    "onnxruntime": lambda device: (device.get("packages") or {}).get("onnxruntime"),
    "GPU": lambda device: (device.get("gpu") or {}).get("name"),
}
"""What chooses the code that runs. Memory, system and Python do not."""

ONLY_IF_TOLD = {"GPU"}
"""It is known to those alone who have loaded torch: not told is not the same as another."""


def differs_from(name: str, there: Device, here: Device) -> Reason | None:
    """The reason to believe no time where the baseline ``name`` was written on another machine."""
    fields = ", ".join(_differences(there, here))
    if not fields:
        return None
    return Reason(
        "fingerprint-differs",
        f"`{name}` was written on another machine: {fields}; --any-device decides all the same",
    )


def _differences(there: Device, here: Device) -> Iterator[str]:
    for field, of in FIELDS.items():
        first, second = of(there), of(here)
        unknown = field in ONLY_IF_TOLD and None in (first, second)
        if first != second and not unknown:
            yield f"{field} {_said(first)} there, {_said(second)} here"


def _said(value: object) -> str:
    if isinstance(value, list):
        return "+".join(str(each) for each in value) or "none"
    return "unknown" if value is None else str(value)
