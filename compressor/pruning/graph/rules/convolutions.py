"""The rule of convolutions, of any dimension, grouped or transposed. Grouped ones are the only ones with a choice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from compressor.pruning.graph.recording.operation import Operation
from compressor.pruning.graph.rules.flow import Flow, Multiply, first_output
from compressor.pruning.graph.rules.labels import NOT_A_CHANNEL, Ids
from compressor.pruning.graph.rules.products import FIXED

FIXED_BLOCKS = "its grouped convolution reads a tensor of fixed width"


@dataclass(frozen=True)
class _Grouped:
    """A grouped convolution's weight, and the channels that it reads, makes and sums over within a block."""

    weight: Tensor
    groups: int
    read: Ids | None
    produced: Ids | None
    consumed: Ids | None


def convolution(flow: Flow, operation: Operation) -> None:
    """Output channels are the weight's; input channels are tied to the weight's second axis."""
    x, weight, bias, _, _, _, transposed, _, groups = operation.args[:9]
    out = first_output(operation)
    flow.freeze(x, "a convolution slides along it", range(2, x.dim()))
    labels = flow.of(x)
    read = labels.get(1)
    ids = flow.of(weight)
    flow.freeze(weight, NOT_A_CHANNEL, range(2, weight.dim()))
    produced, consumed = (ids.get(1), ids.get(0)) if transposed else (ids.get(0), ids.get(1))
    consumed_size: Ids | int = weight.shape[0] if transposed else weight.shape[1]
    if groups == 1:
        flow.tie(read, consumed, FIXED)
        consumed_size = consumed_size if consumed is None else consumed
    elif transposed:
        consumed_size = weight.shape[0] // groups
        produced = _transposed_blocks(flow, _Grouped(weight, groups, read, produced, consumed), out.shape[1])
    elif groups >= weight.shape[1]:
        _whole_blocks(flow, _Grouped(weight, groups, read, produced, consumed))
    else:
        consumed_size = _positions_in_blocks(flow, _Grouped(weight, groups, read, produced, consumed))
    if isinstance(bias, Tensor):
        flow.tie(flow.of(bias).get(0), produced, "its bias is of fixed width")
    result = {0: labels[0]} if 0 in labels else {}
    if produced is not None:
        result[1] = produced
    flow.give(out, result)
    space = x.shape[2:] if transposed else out.shape[2:]
    flow.multiplies.append(
        Multiply(
            operation,
            "convolution",
            math.prod(space) * math.prod(weight.shape[2:]) * (1 if 0 in labels else x.shape[0]),
            (out.shape[1] if produced is None else produced, consumed_size, labels.get(0, 1)),
        )
    )


def _whole_blocks(flow: Flow, met: _Grouped) -> None:
    """Many narrow blocks (depthwise is the extreme): a unit is a block, with all it reads and writes."""
    read, produced, groups = met.read, met.produced, met.groups
    if met.consumed is not None:
        flow.ledger.freeze(met.consumed, NOT_A_CHANNEL)
    name = flow.name_of(met.weight)
    if read is None or produced is None or name is None or read.ndim > 1:
        flow.tie(read, None, "it feeds a grouped convolution of fixed width")
        flow.tie(produced, None, FIXED_BLOCKS)
        return
    flow.blocks[name] = groups
    if len(read) == len(produced) == groups:
        flow.ledger.join(read, produced)
        return
    blocks_in, blocks_out = read.reshape(groups, -1), produced.reshape(groups, -1)
    flow.ledger.join(blocks_in, blocks_in[:, :1])
    flow.ledger.join(blocks_out, blocks_out[:, :1])
    flow.ledger.join(blocks_in[:, 0], blocks_out[:, 0])


def _positions_in_blocks(flow: Flow, met: _Grouped) -> Ids | int:
    """Few wide blocks: a unit is one position, taken from every block alike, so that blocks stay equal."""
    if met.produced is not None:
        rows = met.produced.reshape(met.groups, -1)
        flow.ledger.join(rows, rows[:1])
    if met.read is None or met.consumed is None or met.read.ndim > 1:
        flow.tie(met.read, None, FIXED_BLOCKS)
        flow.tie(met.consumed, None, FIXED_BLOCKS)
        return int(met.weight.shape[1])
    flow.ledger.join(met.read.reshape(met.groups, -1), met.consumed[None, :])
    return met.consumed


def _transposed_blocks(flow: Flow, met: _Grouped, channels: int) -> Ids | None:
    """A grouped transposed convolution: its blocks are rows of the weight, and whole blocks may go.

    Positions inside a block are left whole: the axis that makes them has one block of the output, not all.
    """
    if met.produced is not None:
        flow.ledger.freeze(met.produced, "a grouped transposed convolution makes it")
    name = flow.name_of(met.weight)
    if met.read is None or met.consumed is None or name is None or met.read.ndim > 1:
        flow.tie(met.read, None, FIXED)
        flow.tie(met.consumed, None, FIXED)
        return None
    flow.ledger.join(met.read, met.consumed)
    blocks = met.consumed.reshape(met.groups, -1)
    flow.ledger.join(blocks, blocks[:, :1])
    flow.blocks[name] = met.groups
    return np.repeat(blocks[:, 0], channels // met.groups)
