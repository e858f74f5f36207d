"""The steps that a device works in: widths between them cost as much as the next step, or more.

A runtime lays channels out in blocks of eight or sixteen, and what does not fill a block is padded or goes another,
slower way: 63 channels cost more than 64. So the step is probed, and layers that miss it are named, with what that
costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from compressor.profiling.block_times import REFERENCE, time_blocks
from compressor.profiling.blocks import Block, named_blocks

STEPS = (1, 2, 4, 8, 16)
"""Granules that are looked for; 32 is what a device has that charges for everything below."""
BASES = (32, 48, 64)
NARROW = 16
"""Channels below which nothing is said about a width."""
WORTH_SAYING = 1.03


def _square(width: int) -> Block:
    return REFERENCE.at(width, width, 1)


GRANULE_BLOCKS = tuple(
    _square(width)
    for width in sorted({base + each for base in BASES for step in STEPS for each in (step, 2 * step)})
)
"""Widths one more than a multiple of twice each step, and the next such multiple."""


def granule_from(ratios: Mapping[Block, float]) -> int:
    """The least step of which most widths are worth something: each costs clearly less than every wider one."""
    times = {block.out: ratios[block] for block in GRANULE_BLOCKS}
    for step in STEPS:
        worth = sum(_is_worth(base + step, times) for base in BASES)
        if 2 * worth > len(BASES):
            return step
    return 2 * STEPS[-1]


def _is_worth(width: int, times: Mapping[int, float]) -> bool:
    """Work goes with the square of the width; a third of what that promises has to be saved."""
    wider = (other for other in times if other > width)
    return all(times[other] / times[width] > 1 + ((other / width) ** 2 - 1) / 3 for other in wider)


@dataclass(frozen=True)
class Waste:
    """A layer whose width misses the step: ``more`` is what it costs beyond the next multiple, as a share."""

    layer: str
    width: int
    better: int
    more: float

    def __str__(self) -> str:
        return f"{self.layer}: {self.width} channels cost {self.more:.0%} more than {self.better} here"

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return asdict(self)


def wasteful_widths(
    path: Path, *, side: Sequence[int] = (), batch: int = 1, threads: int = 1, multiple: int = 8
) -> tuple[Waste, ...]:
    """Layers of a file that would be faster with more channels; both widths are measured as blocks of their own."""
    pairs = [
        (name, block, _rounded(block, multiple))
        for name, block in named_blocks(path, side=side, batch=batch)
        if block is not None and block.out >= NARROW and block.out % multiple
    ]
    if not pairs:
        return ()
    times = time_blocks(
        [each for _, block, wider in pairs for each in (block, wider)], threads=threads
    ).ratios
    return tuple(
        Waste(name, block.out, wider.out, times[block] / times[wider] - 1)
        for name, block, wider in pairs
        if times[block] > WORTH_SAYING * times[wider]
    )


def _rounded(block: Block, multiple: int) -> Block:
    out = -(-block.out // multiple) * multiple
    if block.groups == block.out:  # depthwise: every channel is a group
        return replace(block, out=out, groups=out)
    if block.groups > 1:
        return replace(block, out=-(-out // block.groups) * block.groups)
    inner = -(-block.inner // multiple) * multiple if block.inner >= NARROW else block.inner
    return replace(block, out=out, inner=inner)
