"""What makes a training repeatable: seeds for every step, and kernels that give the same sum every time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """cuDNN repeats itself, random streams may be seeded at will; afterwards all is as the caller had it.

    Only the streams that are used are given back (`fork_rng` would touch every device). The
    one of Apple's GPUs cannot be given back by torch's own `fork_rng`; it is left seeded.
    """
    deterministic = torch.backends.cudnn.deterministic
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.backends.cudnn.deterministic = True
        try:
            yield
        finally:
            torch.backends.cudnn.deterministic = deterministic


def reseed(seed: int, device: torch.device) -> None:
    """Whatever draws at random from here on, on the CPU or on ``device``, draws from ``seed``."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def seed_of(*parts: int | str) -> int:
    """32 bits for one use, as in ``seed_of(seed, epoch, "order")``; shared, dropout would follow the order."""
    text = " ".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
