"""Time blocks relative to a reference block; these ratios can be stored.

Dozens of blocks are timed in one file, each once in every run. The files run one after the other over a minute or
two, in which clocks and other programs change; so each file also holds three copies of one reference block, and a
block's time is a multiple of it. Such multiples can be kept from one day to the next, milliseconds cannot.

A file can be converted before it is timed, for example to INT8.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressor.profiling.blocks import Block, side_by_side
from compressor.profiling.nodes import node_times
from compressor.profiling.timing import quantile

if TYPE_CHECKING:
    import numpy as np

    Feed = Mapping[str, np.ndarray[Any, np.dtype[Any]]]
    Making = Callable[[Feed, bytes], bytes]

REFERENCE = Block("Conv", (28, 28), 64, 64, 1, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), ("Relu",))
MOST_WEIGHTS = 48_000_000
"""Largest count of weights in one file, so that it fits in memory twice while it is opened."""
MOST_BLOCKS = 96
ROUNDS = 12

_NAMED = re.compile(r"\bb(\d+)_")


@dataclass(frozen=True)
class BlockTimes:
    """Time of each block as a multiple of the reference's time, and the reference's time on this machine."""

    ratios: dict[Block, float]
    reference_ms: float


def time_blocks(
    blocks: Sequence[Block],
    *,
    threads: int = 1,
    rounds: int = ROUNDS,
    seconds_a_file: float = 8.0,
    made: Making = lambda feed, model: model,
    moved: Callable[[float], None] = lambda done: None,
) -> BlockTimes:
    """Time every block.

    ``made`` converts a file of blocks, given its feed, to the file that is timed; the names of nodes must stay.
    ``moved`` is called with the share that is done.
    """
    ratios: dict[Block, float] = {}
    references: list[float] = []
    distinct = list(dict.fromkeys(blocks))
    for part in _parts(distinct):
        reference, times = _timed(part, threads, rounds, seconds_a_file, made)
        references.append(reference)
        ratios |= {block: time / reference for block, time in zip(part, times, strict=True)}
        moved(len(ratios) / len(distinct))
    if not references:
        references.append(_timed([], threads, rounds, seconds_a_file, made)[0])
    return BlockTimes(ratios, quantile(references, 0.5))


def _parts(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Split the blocks into the contents of files, within the limits; a single block may be larger."""
    part: list[Block] = []
    weights = 0
    for block in blocks:
        if part and (len(part) == MOST_BLOCKS or weights + block.weights > MOST_WEIGHTS):
            yield part
            part, weights = [], 0
        part.append(block)
        weights += block.weights
    if part:
        yield part


def _timed(
    blocks: Sequence[Block], threads: int, rounds: int, budget_s: float, made: Making
) -> tuple[float, list[float]]:
    """Milliseconds of the reference in one file of these blocks, and of each block."""
    import numpy as np

    half = len(blocks) // 2
    batch = [REFERENCE, *blocks[:half], REFERENCE, *blocks[half:], REFERENCE]
    model, inputs = side_by_side(batch)
    random = np.random.default_rng(0)
    feed = {name: random.standard_normal(shape).astype(np.float32) for name, shape in inputs.items()}
    times = node_times(made(feed, model), feed, threads=threads, rounds=rounds, budget_s=budget_s)
    samples = [[0.0] * len(times.runs_ms) for _ in batch]
    for node in times.nodes:
        if match := _NAMED.search(node.name):
            block_samples = samples[int(match[1])]
            for place, sample in enumerate(node.samples_ms):
                block_samples[place] += sample
    places = (0, half + 1, len(batch) - 1)
    reference = quantile([sample for place in places for sample in samples[place]], 0.5)
    others = [block_samples for place, block_samples in enumerate(samples) if place not in places]
    # The clock ticks in microseconds: a shorter time counts as half of one.
    return reference, [max(quantile(block_samples, 0.5), 5e-4) for block_samples in others]
