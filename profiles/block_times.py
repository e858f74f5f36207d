"""What blocks cost, measured beside a reference block whose ratio is what is kept.

Blocks are timed by the dozen in one file, each once in every run. Files follow one another over a minute or two, in
which clocks and neighbours change; so each file also holds three copies of one reference block, and a block's time is
known as a multiple of it. Such multiples can be kept from one day to the next, milliseconds cannot.

A file can be made into another one before it is timed, as into one in INT8.
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
COPIES = 3
MOST_WEIGHTS = 48_000_000
"""Numbers in one file, so that it fits in memory twice while it is opened."""
MOST_BLOCKS = 96
ROUNDS = 12

_NAMED = re.compile(r"\bb(\d+)_")


@dataclass(frozen=True)
class BlockTimes:
    """How many times as long as the reference each block takes, and how long that takes here."""

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
    """Time every block. ``made``: what is timed, of a file of blocks and what it is fed; nodes that run a block keep
    its name. ``moved`` is told the share that is done."""
    ratios: dict[Block, float] = {}
    references: list[float] = []
    wanted = list(dict.fromkeys(blocks))
    for part in _parts(wanted):
        reference, times = _timed(part, threads, rounds, seconds_a_file, made)
        references.append(reference)
        ratios |= {block: time / reference for block, time in zip(part, times, strict=True)}
        moved(len(ratios) / len(wanted))
    if not references:
        references.append(_timed([], threads, rounds, seconds_a_file, made)[0])
    return BlockTimes(ratios, quantile(references, 0.5))


def _parts(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """As many at a time as one file may hold; a single block may be larger."""
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
    """The reference's milliseconds in this file, and those of each block."""
    import numpy as np

    half = len(blocks) // 2
    batch = [REFERENCE, *blocks[:half], REFERENCE, *blocks[half:], REFERENCE]
    model, inputs = side_by_side(batch)
    random = np.random.default_rng(0)
    feed = {name: random.standard_normal(shape).astype(np.float32) for name, shape in inputs.items()}
    times = node_times(made(feed, model), feed, threads=threads, rounds=rounds, budget_s=budget_s)
    samples = [[0.0] * len(times.runs_ms) for _ in batch]
    for node in times.nodes:
        if named := _NAMED.search(node.name):
            own = samples[int(named[1])]
            for place, sample in enumerate(node.samples_ms):
                own[place] += sample
    places = (0, half + 1, len(batch) - 1)
    reference = quantile([sample for place in places for sample in samples[place]], 0.5)
    rest = [own for place, own in enumerate(samples) if place not in places]
    # The clock ticks in microseconds: what takes less has taken about half of one.
    return reference, [max(quantile(own, 0.5), 5e-4) for own in rest]
