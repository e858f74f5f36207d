"""Several processes, started by torchrun, that train one network as one process would.

Each computes its piece of every batch (`Part`). Gradients are added up once a batch, after the backward pass and not
during it as in DistributedDataParallel: that way the same few lines serve every lesson, whatever its parameters are
(the cascade has two vectors, and networks that change), the sum is exact for pieces of unequal size, and a batch can be
given up and computed again. What it costs is the overlap of sending and computing. Every process then makes the same
step from the same numbers, so weights are never sent but at the start.

With one process nothing of torch.distributed is loaded, and every function here gives back what it was given.
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
"""So long the processes wait for each other at the start: machines import torch at different speeds."""
LONG = timedelta(days=7)
"""For what one process does alone, such as measuring; if it dies meanwhile, the others hear of it at once."""
BUCKET = 25 * 2**20
"""Bytes of gradients that are sent together."""


@dataclass
class World:
    """All processes, seen from one of them. ``device``: where this one computes.

    ``spread``: a network has been spread over the processes, so that each needs all others for its answers.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    watch: Watch | None = None
    patient: Any = None
    spread: bool = False

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    @property
    def part(self) -> Part:
        """Its piece of every batch."""
        return Part(self.rank, self.size)

    def doing(self, what: str) -> None:
        """Say where this process is, for the message if another one dies."""
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
        """Add up the gradients of all processes, where each has scaled its loss to its share of the batch."""
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
        """What the first process computes alone, while the others wait for it."""
        if self.size == 1:
            return compute()
        told: list[Any] = [None]
        if self.first:
            with apart():
                told = [compute()]
        torch.distributed.broadcast_object_list(told, src=0, group=self.patient)
        return told[0]

    def gathered(self, value: T) -> list[T]:
        """The values of all processes, in their order."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, value, group=self.patient)
        return found

    def wait(self) -> None:
        """Until all processes are here, however long one of them takes."""
        if self.size > 1:
            torch.distributed.barrier(group=self.patient)

    def first_then_others(self, read: Callable[[], T]) -> T:
        """What every process reads for itself, after the first one, which may have to download and unpack it."""
        if self.size == 1:
            return read()
        value = read() if self.first else None
        self.wait()
        return value if value is not None else read()

    def same(self, tensors: Iterable[Tensor]) -> None:
        """Give the tensors what they have in the first process."""
        if self.size > 1:
            for tensor in tensors:
                sent = tensor.contiguous()
                torch.distributed.broadcast(sent, src=0)
                tensor.copy_(sent)

    def agree(self, what: str, value: Any) -> None:
        """An error if ``value`` is not the same in every process."""
        if self.size == 1:
            return
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
        digests = self.gathered(hashlib.sha256(text.encode()).hexdigest())
        for rank, digest in enumerate(digests):
            if digest != digests[0]:
                raise CompressError(
                    f"process {rank} has other {what} than process 0",
                    "every machine needs the same files, code and packages",
                )


ALONE = World()
_worlds = [ALONE]


def here() -> World:
    """The processes that compute together now. As in torch, there is one such group in a process at a time."""
    return _worlds[-1]


@contextmanager
def apart() -> Iterator[World]:
    """What runs in the block is computed by this process alone."""
    _worlds.append(World(device=here().device))
    try:
        yield _worlds[-1]
    finally:
        _worlds.pop()


def leave() -> None:
    """From here on this process computes alone, until the block of `join` ends; the others wait for what it says."""
    _worlds.append(World(device=here().device))


@contextmanager
def join(device: torch.device, start: Launched | None = None) -> Iterator[World]:
    """Compute together with the other processes of ``torchrun``, if it started this one.

    If one dies or fails, the block ends in all of them: in one with the error to be told, in the others with a
    `ToldError`.
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
        # gloo also where there are GPUs: for what lies in the computer's memory.
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
            "were all of them started, with the same MASTER_ADDR and MASTER_PORT?",
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
        raise _told_once(watch, error, start, limit) from error
    finally:
        del _worlds[_worlds.index(world) :]
        watch.stop(well=well)
        if well:
            dist.destroy_process_group()


def _told_once(watch: Watch, error: BaseException, start: Launched, limit: float) -> BaseException:
    """The error with which this process ends: its own, of another process, or that it has been told."""
    told = None
    if not isinstance(error, CompressError):
        told = watch.told()
        lost = None if told else watch.lost()
        told = told or watch.told()
        if lost is not None:
            error = CompressError(lost, HINT)
        elif "timed out" in str(error).lower():
            error = CompressError(
                f"process {start.rank} waited {limit:g} s in {watch.doing}, and another one did not come",
                f"if it is only slow, set {PATIENCE} to more seconds; {HINT}",
            )
    code = int(getattr(error, "exit_code", 1))
    if told is None and watch.claim(_line(error), code):
        setattr(error, CLAIMED, True)
        return error
    message, code = told or watch.told() or (_line(error), code)
    return ToldError(message, code)


def _own(device: torch.device, start: Launched) -> torch.device:
    """The device of this process among those of its machine."""
    if device.type == "cuda":
        there = torch.cuda.device_count()
        if device.index is not None:
            raise UsageError(
                f"device `{device}` is one GPU, and {start.size} processes need one each",
                "--device cuda gives each process its own",
            )
        if start.local >= there:
            raise UsageError(
                f"process {start.rank} is number {start.local} on its machine, which has {there} GPUs",
                f"torchrun --nproc-per-node {there}, or --device cpu",
            )
        own = torch.device("cuda", start.local)
        torch.cuda.set_device(own)
        return own
    if device.type != "cpu":
        raise UsageError(f"{start.size} processes compute on cuda or cpu, this is `{device.type}`")
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
