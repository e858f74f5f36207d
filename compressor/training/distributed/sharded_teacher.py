"""Shard a teacher over all processes (FSDP2), for one that does not fit into GPU memory beside its student.

Each layer's weights are gathered when it computes and dropped again. Only for frozen networks. The main memory of every
computer still holds the whole network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn

from compressor.errors import UsageError
from compressor.training.distributed.world import World

PIECES = 16
"""At most 1/PIECES of the network is gathered at a time, where its modules allow."""


def check_several(world: World) -> None:
    """Raise an error if there is only one process."""
    if world.size == 1:
        raise UsageError(
            "distil.shard_teacher divides the teacher among processes: found 1 process, expected at least 2",
            "start with torchrun --nproc-per-node 2 -m compressor run …, or remove distil.shard_teacher",
        )


def sharded(network: nn.Module, world: World) -> nn.Module:
    """A sharded copy with the same outputs; all processes must call it together. ``network`` is in main memory."""
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


def _pieces(module: nn.Module, most: float, visited: set[int]) -> Iterator[nn.Module]:
    """The modules below ``module`` with at most ``most`` parameters, or with direct parameters of their own.

    A module with direct parameters is not divided: it may use its children's weights without calling them, as
    attention does. A list of modules is always divided: it is never called.
    """
    for child in module.children():
        total = sum(parameter.numel() for parameter in child.parameters())
        direct = any(True for _ in child.parameters(recurse=False))
        called = not isinstance(child, nn.ModuleList | nn.ModuleDict)
        if not total or id(child) in visited:
            continue
        visited.add(id(child))
        if called and (total <= most or direct):
            yield child
        else:
            yield from _pieces(child, most, visited)
