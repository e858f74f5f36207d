"""Choose the device of a run."""

from __future__ import annotations

import torch

from compressor.errors import UsageError


def choose_device(name: str) -> torch.device:
    """The device for ``name``: ``auto`` is the first CUDA device, else the CPU; any other name must be available."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device `{name}`", "use auto, cpu, cuda, cuda:1 or mps") from error
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }.get(device.type, False)
    if not available:
        raise UsageError(
            f"device `{name}` is not available on this machine",
            "`compress doctor` lists the available devices",
        )
    return device
