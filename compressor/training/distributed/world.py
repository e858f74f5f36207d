"""Several processes, started by torchrun, that train one network with the result of one process.

Each computes its piece of every batch (`Part`). Gradients are summed once a batch, after the backward pass and not
during it as in DistributedDataParallel: so the same few lines work for every lesson, whatever its parameters are
(the cascade has two vectors, and networks that change), the sum is exact for pieces of unequal size, and a batch can be
aborted and computed again. The cost: sending and computing do not overlap. Every process then makes the same
step from the same numbers, so weights are sent only at the start.

With one process torch.distributed is not imported, and every function here returns its input.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from compressor.base.torchrun import CLAIMED, PATIENCE, Launched, ToldError, launched, patience
from compressor.data.split import Part
from compressor.errors import CompressError, UsageError
from compressor.training.distributed.heartbeat import HINT, TerminatedError, Watch

T = TypeVar("T")

CPU = torch.device("cpu")
ARRIVAL_S = 300.0
"""Time that processes wait for each other at the start: machines import torch at different speeds."""
LONG = timedelta(days=7)
"""Timeout while one process works alone, such as measuring; if it dies, the heartbeat ends the others at once."""
BUCKET = 25 * 2**20
"""Largest number of gradient bytes sent together, unless a single tensor is larger."""


@dataclass
class World:
    """All processes, as one of them sees them. ``device``: the device of this one.

    ``patient``: process group with the timeout ``LONG``.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    watch: Watch | None = None
    patient: Any = None

    @property
    def first(self) -> bool:
        """True for the process that writes files and prints."""
        return self.rank == 0

    @property
    def part(self) -> Part:
        """This process's piece of every batch."""
        return Part(self.rank, self.size)

    def doing(self, what: str) -> None:
        """Set the current step of the run, for the error message if another process dies."""
        if self.watch is not None:
            self.watch.doing = what

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def rows(self, vector: Tensor) -> Tensor:
        """The vectors of all processes, one a row."""
        result = vector.new_empty(self.size, len(vector))
        torch.distributed.all_gather(list(result.unbind()), vector)
        return result

    def total_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over all processes; each has scaled its loss to its share of the batch."""
        if self.size == 1:
            return
        for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
            if len(bucket) == 1 and bucket[0].is_contiguous():
                self.total(bucket[0])
                continue
            flat = self.total(torch.cat([gradient.reshape(-1) for gradient in bucket]))
            pieces = flat.split([gradient.numel() for gradient in bucket])
            for gradient, piece in zip(bucket, pieces, strict=True):
                gradient.copy_(piece.view(gradient.shape))

    def from_first(self, compute: Callable[[], T]) -> T:
        """The result of ``compute`` in the first process, sent to the others, which wait for it."""
        if self.size == 1:
            return compute()
        result: list[Any] = [None]
        if self.first:
            with apart():
                result = [compute()]
        torch.distributed.broadcast_object_list(result, src=0, group=self.patient)
        return result[0]

    def gathered(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value, group=self.patient)
        return values

    def wait(self) -> None:
        """Wait until all processes are here, up to ``LONG``."""
        if self.size > 1:
            torch.distributed.barrier(group=self.patient)

    def first_then_others(self, read: Callable[[], T]) -> T:
        """Call ``read`` in every process, in the first one before the others: it may download and unpack the files."""
        if self.size == 1:
            return read()
        value = read() if self.first else None
        self.wait()
        return value if value is not None else read()

    def same(self, tensors: Iterable[Tensor]) -> None:
        """Copy the values of the tensors in the first process to all others."""
        if self.size > 1:
            for tensor in tensors:
                sent = tensor.contiguous()
                torch.distributed.broadcast(sent, src=0)
                tensor.copy_(sent)

    def agree(self, what: str, value: Any) -> None:
        """Raise an error if ``value`` is not the same in every process; ``what`` names it."""
        if self.size == 1:
            return
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
        digests = self.gathered(hashlib.sha256(text.encode()).hexdigest())
        for rank, digest in enumerate(digests):
            if digest != digests[0]:
                raise CompressError(
                    f"{what}: process {rank} differs from process 0",
                    "every machine needs the same files, code and packages",
                )


ALONE = World()
_worlds = [ALONE]


def here() -> World:
    """The world that is active now. As in torch, a process has one at a time."""
    return _worlds[-1]


@contextmanager
def apart() -> Iterator[World]:
    """Let this process compute alone while the block runs."""
    _worlds.append(World(device=here().device))
    try:
        yield _worlds[-1]
    finally:
        _worlds.pop()


def leave() -> None:
    """Let this process compute alone until the block of `join` ends; the others wait for its result."""
    _worlds.append(World(device=here().device))


@contextmanager
def join(device: torch.device, start: Launched | None = None) -> Iterator[World]:
    """Compute together with the other processes of ``torchrun``, if it started this one.

    If one dies or fails, the block ends in all of them: in one with the error to print, in the others with a
    `ToldError`, which prints nothing.
    """
    start = start or launched()
    if start.size == 1:
        yield World(device=device)
        return
    device, limit = _own(device, start), patience()
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        reach = rendezvous("env://", start.rank, start.size, timeout=timedelta(seconds=ARRIVAL_S))
        store, _, _ = next(iter(reach))
        watch = Watch(PrefixStore("watch", store.clone()), start.rank, start.size)
        # gloo also where there are GPUs: for tensors in main memory.
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("training", store),
            rank=start.rank,
            world_size=start.size,
            timeout=timedelta(seconds=limit),
        )
        patient = dist.new_group(backend="gloo", timeout=LONG)
    except (RuntimeError, ValueError, OSError) as error:
        raise CompressError(
            f"process {start.rank} does not reach the other {start.size - 1}: {_line(error)}",
            "start all of them, with the same MASTER_ADDR and MASTER_PORT",
        ) from error
    world = World(start.rank, start.size, device, watch, patient)
    watch.start()
    _worlds.append(world)
    well = False
    try:
        yield world
        well = True
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise _reported_once(watch, error, start, limit) from error
    finally:
        del _worlds[_worlds.index(world) :]
        watch.stop(well=well)
        if well:
            dist.destroy_process_group()


def _reported_once(watch: Watch, error: BaseException, start: Launched, limit: float) -> BaseException:
    """The error that ends this process: one to print, or a `ToldError` if another process prints it."""
    reported = None
    if not isinstance(error, CompressError):
        reported = watch.told()
        lost = None if reported else watch.lost()
        reported = reported or watch.told()
        if lost is not None:
            error = CompressError(lost, HINT)
        elif "timed out" in str(error).lower():
            error = CompressError(
                f"process {start.rank} waited {limit:g} s in {watch.doing} for another process",
                f"if that one is only slow, set {PATIENCE} to more seconds; {HINT}",
            )
    code = int(getattr(error, "exit_code", 1))
    if reported is None and watch.claim(_line(error), code):
        setattr(error, CLAIMED, True)
        return error
    message, code = reported or watch.told() or (_line(error), code)
    return ToldError(message, code)


def _own(device: torch.device, start: Launched) -> torch.device:
    """The device of this process among those of its machine."""
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if device.index is not None:
            raise UsageError(
                f"device `{device}` is 1 GPU, expected {start.size}, one for each process",
                "--device cuda gives each process its own GPU",
            )
        if start.local >= count:
            raise UsageError(
                f"process {start.rank} is number {start.local} (from 0) on its machine, which has {count} GPUs, "
                "expected one for each process",
                f"start with torchrun --nproc-per-node {count}, or use --device cpu",
            )
        own = torch.device("cuda", start.local)
        torch.cuda.set_device(own)
        return own
    if device.type != "cpu":
        raise UsageError(
            f"device `{device.type}` does not work with {start.size} processes, expected cuda or cpu"
        )
    return device


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        bytes_ = gradient.numel() * gradient.element_size()
        if bucket and (size + bytes_ > BUCKET or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += bytes_
    if bucket:
        yield bucket


def _line(error: BaseException) -> str:
    if isinstance(error, TerminatedError):
        return "stopped by SIGTERM"
    return (str(error).splitlines() or [type(error).__name__])[0]
