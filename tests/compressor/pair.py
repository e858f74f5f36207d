"""Two processes that compute together, kept for all tests of a file: starting them takes longer than what they do."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

PATIENCE_S = 60


class Pair:
    """Calls a function in both processes at once."""

    def __init__(self, ends: list[Connection]) -> None:
        self._ends = ends

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What the function gives in each; an exception is given too, as it is."""
        for end in self._ends:
            end.send((function, arguments))
        for end in self._ends:
            assert end.poll(PATIENCE_S), "a process does not answer"
        return [end.recv() for end in self._ends]


@contextmanager
def two_processes() -> Iterator[Pair]:
    """Start them, and end them."""
    context = multiprocessing.get_context("spawn")
    port = free_port()
    ends, processes = [], []
    for rank in range(2):
        mine, theirs = context.Pipe()
        process = context.Process(target=_answer, args=(theirs, rank, port), daemon=True)
        process.start()
        ends.append(mine)
        processes.append(process)
    try:
        yield Pair(ends)
    finally:
        for end in ends:
            end.send(None)
        for process in processes:
            process.join(20)
            if process.is_alive():
                process.kill()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def variables(rank: int, port: int, size: int = 2) -> dict[str, str]:
    """What torchrun puts into the environment of a process."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _answer(end: Connection, rank: int, port: int) -> None:
    os.environ.update(variables(rank, port))
    import torch

    from compressor.training.distributed.world import join

    torch.set_num_threads(1)
    with join(torch.device("cpu")):
        while (asked := end.recv()) is not None:
            function, arguments = asked
            try:
                end.send(function(*arguments))
            except Exception as error:
                traceback.print_exc()
                end.send(error)
