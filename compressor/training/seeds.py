"""Make a training repeatable: a seed for every step, and kernels that give the same sum every time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Use deterministic cuDNN kernels while the block runs; restore that setting and the random states afterwards.

    Only the generators of the CPU and of ``device`` are restored (`fork_rng` would touch every device). `fork_rng`
    cannot restore that of Apple's GPUs; it stays seeded.
    """
    deterministic = torch.backends.cudnn.deterministic
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.backends.cudnn.deterministic = True
        try:
            yield
        finally:
            torch.backends.cudnn.deterministic = deterministic


def reseed(seed: int, device: torch.device) -> None:
    """Seed the generators of the CPU and of ``device``."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def seed_of(*parts: int | str) -> int:
    """32-bit seed for one use, as in ``seed_of(seed, epoch, "order")``; a shared one would tie dropout to the order."""
    text = " ".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
