"""Compare this machine with the one on which a baseline was written; times of another machine prove little.

Both sides are measured on this machine in any case, so the ratio is true of it. But the limit on the slowdown was
chosen for the other machine: kernels are chosen by instruction sets, and a network that is faster on one processor
can be slower on the next.
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
"""Facts that select the code that runs. Memory, system and Python do not."""

ONLY_IF_KNOWN = {"GPU"}
"""Facts that are known only to a process that has loaded torch: an unknown one is no difference."""


def differs_from(name: str, there: Device, here: Device) -> Reason | None:
    """Reason for no verdict on time if the baseline ``name`` was written on another machine, else None."""
    fields = ", ".join(_differences(there, here))
    if not fields:
        return None
    return Reason(
        "fingerprint-differs",
        f"`{name}` was written on another machine: {fields}; --any-device decides anyway",
    )


def _differences(there: Device, here: Device) -> Iterator[str]:
    for field, of in FIELDS.items():
        first, second = of(there), of(here)
        unknown = field in ONLY_IF_KNOWN and None in (first, second)
        if first != second and not unknown:
            yield f"{field} {_text(first)} there, {_text(second)} here"


def _text(value: object) -> str:
    if isinstance(value, list):
        return "+".join(str(item) for item in value) or "none"
    return "unknown" if value is None else str(value)
