"""A teacher of which every process holds a part (FSDP2), for one that does not fit beside its student.

Each layer's weights are brought together when it computes and dropped again. Only for a network that answers: its
weights do not move. The memory of every computer holds the whole network all the same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn

from compressor.errors import UsageError
from compressor.training.distributed.world import World

PIECES = 16
"""So small a share of the network is brought together at a time, where its modules allow."""


def check_several(world: World) -> None:
    """Refuse to share a teacher out among one."""
    if world.size == 1:
        raise UsageError(
            "distil.shard_teacher shares the teacher out among several processes, and this is one",
            "torchrun --nproc-per-node 2 -m compressor run …, or leave it out",
        )


def sharded(network: nn.Module, world: World) -> nn.Module:
    """A copy that answers as the network does, if all processes ask it at once; ``network`` lies in memory."""
    check_several(world)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    whole = copy.deepcopy(network).cpu().to(torch.float32).eval().requires_grad_(False)
    mesh = init_device_mesh(world.device.type, (world.size,))
    most = sum(parameter.numel() for parameter in whole.parameters()) / PIECES
    for module in (*_pieces(whole, most, set()), whole):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    world.spread = True
    return whole


def _pieces(module: nn.Module, most: float, seen: set[int]) -> Iterator[nn.Module]:
    """The modules below that hold at most so many parameters, or that have some of their own.

    One with parameters of its own is not taken apart: it may use what its children hold without calling them, as
    attention does. A list of modules is never called.
    """
    for child in module.children():
        held = sum(parameter.numel() for parameter in child.parameters())
        alone = any(True for _ in child.parameters(recurse=False))
        called = not isinstance(child, nn.ModuleList | nn.ModuleDict)
        if not held or id(child) in seen:
            continue
        seen.add(id(child))
        if called and (held <= most or alone):
            yield child
        else:
            yield from _pieces(child, most, seen)
