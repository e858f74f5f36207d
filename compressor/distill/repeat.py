"""What makes an epoch repeatable: its own seeds, and kernels that give the same sum every time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def repeatable(seed: int, device: torch.device) -> Iterator[None]:
    """Random layers draw from ``seed``, cuDNN repeats itself; then all is as the caller had it.

    Only the streams that are used are seeded (`torch.manual_seed` would touch every device). The
    one of Apple's GPUs cannot be given back by torch's own `fork_rng`; it is left seeded.
    """
    deterministic = torch.backends.cudnn.deterministic
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        torch.backends.cudnn.deterministic = True
        try:
            yield
        finally:
            torch.backends.cudnn.deterministic = deterministic


def seed_of(seed: int, epoch: int, use: str) -> int:
    """32 bits for one use in one epoch; with a shared seed dropout would follow the order."""
    return int.from_bytes(hashlib.sha256(f"{seed} {epoch} {use}".encode()).digest()[:4])
