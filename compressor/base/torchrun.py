"""Detect whether torchrun started this process. Does not import torch, so that the command line can use it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from compressor.errors import CompressError, UsageError

PATIENCE = "COMPRESS_PATIENCE_S"
"""Environment variable with the number of seconds that a process waits for the others."""

CLAIMED = "claimed"
"""Attribute of an error that this process must print, as the first of all that failed together."""


class ToldError(CompressError):
    """A failure that another process has printed already; the command line prints nothing more."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Launched:
    """One of ``size`` processes, ``rank`` from 0; on its machine it is number ``local``."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def speaks(self) -> bool:
        """True for the process that prints messages common to all processes of its machine, such as a wrong option."""
        return self.local == 0


def launched(environment: Mapping[str, str] = os.environ) -> Launched:
    """The process as torchrun's environment variables describe it; a single process without them."""
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return Launched()
    rank, size = (_number(environment, name) for name in ("RANK", "WORLD_SIZE"))
    local = _number(environment, "LOCAL_RANK") if "LOCAL_RANK" in environment else rank
    if rank >= size:
        raise UsageError(f"RANK is {rank} and WORLD_SIZE {size}, expected RANK from 0 to {max(0, size - 1)}")
    if size > 1:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if not environment.get(name):
                raise UsageError(
                    f"WORLD_SIZE is {size}, and {name} is not set: the processes cannot find each other",
                    "start them with torchrun, which sets it",
                )
    return Launched(rank, size, local)


def patience(environment: Mapping[str, str] = os.environ) -> float:
    """Number of seconds that a process waits for the others before it fails; 60 by default."""
    text = environment.get(PATIENCE, "60")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds < float("inf"):
        raise UsageError(f"{PATIENCE} is `{text}`, expected a number of seconds of at least 1")
    return seconds


def _number(environment: Mapping[str, str], name: str) -> int:
    if not environment[name].isdecimal():
        raise UsageError(
            f"{name} is `{environment[name]}`, expected a whole number", "start with torchrun, which sets it"
        )
    return int(environment[name])
