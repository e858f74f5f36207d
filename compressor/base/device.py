"""Which device a run computes on."""

from __future__ import annotations

import torch

from compressor.errors import UsageError


def choose_device(name: str) -> torch.device:
    """``auto`` is the first CUDA device, else the CPU; a device asked for by name must be there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device `{name}`", "auto, cpu, cuda, cuda:1 or mps") from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }.get(device.type, False)
    if not there:
        raise UsageError(
            f"device `{name}` is not available here", "`compress doctor` says what this machine has"
        )
    return device
