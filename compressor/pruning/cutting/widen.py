"""A network with twice the channels in every group, and weights that have learnt nothing.

The reverse of a cut, by the same slices: every index of a group is kept twice. What could not be cut stays as it is,
and so do inputs and answers. A class whose Python fixes a size cannot be widened.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from compressor.errors import CompressError
from compressor.pruning.cutting.sliced import sliced
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.plan import Plan


def twice_as_wide(network: nn.Module, graph: ChannelGraph, image: Tensor, seed: int = 0) -> nn.Module:
    """A network of the same class, in evaluation mode; an error where its class does not run at other widths."""
    wide = sliced(network, _doubling(graph))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in wide.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _widths(trace(wide.eval(), image))
    except Exception as error:  # whatever the class says about sizes that it does not expect
        raise _fixed(str(error).partition("\n")[0]) from error
    expected = {name: 2 * units for name, units in _widths(graph).items()}
    if found != expected:
        name = next(name for name in (*expected, *found) if found.get(name) != expected.get(name))
        raise _fixed(f"`{name}` has {found.get(name, 0)} units, expected {expected.get(name, 0)}")
    return wide


def _doubling(graph: ChannelGraph) -> Plan:
    """The slices that keep every index of every group twice, as a plan."""
    owned: dict[tuple[str, int], list[int]] = {}
    for group in graph.groups:
        for slot in group.slots:
            owned.setdefault((slot.tensor, slot.axis), []).extend(slot.indices.ravel().tolist())
    slices: dict[str, dict[int, tuple[int, ...]]] = {}
    for (tensor, axis), indices in owned.items():
        times = np.ones(graph.shapes[tensor][axis], dtype=np.int64)
        times[indices] = 2
        slices.setdefault(tensor, {})[axis] = tuple(np.repeat(np.arange(len(times)), times).tolist())
    blocks = {
        weight: number * len(slices[weight][0]) // graph.shapes[weight][0]
        for weight, number in graph.blocks.items()
        if 0 in slices.get(weight, {})
    }
    return Plan(slices, blocks)


def _widths(graph: ChannelGraph) -> Mapping[str, int]:
    return {group.name: group.units for group in graph.groups}


def _fixed(reason: str) -> CompressError:
    return CompressError(
        f"the student's class cannot be made twice as wide: {reason}",
        'give a network between as distil.layerwise.auxiliary = "package.module:factory"',
    )
