"""Granule of a device: the step of widths; widths between two steps cost as much as the next step, or more.

A runtime stores channels in blocks of eight or sixteen, and channels that do not fill a block are padded or take
slower code: 63 channels cost more than 64. So the step is measured, and layers whose width is no multiple of it are
named with the extra cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from compressor.profiling.block_times import REFERENCE, time_blocks
from compressor.profiling.blocks import Block, named_blocks

STEPS = (1, 2, 4, 8, 16)
"""Granules to test for; a device on which none of them saves time has 32."""
BASES = (32, 48, 64)
NARROW = 16
"""Number of channels below which a width is not reported."""
WORTH_SAYING = 1.03
"""Ratio of times from which a wasteful width is reported."""


def _square(width: int) -> Block:
    return REFERENCE.at(width, width, 1)


GRANULE_BLOCKS = tuple(
    _square(width)
    for width in sorted({base + more for base in BASES for step in STEPS for more in (step, 2 * step)})
)
"""Blocks whose width is a base plus one step, or plus two, for every step."""


def granule_from(ratios: Mapping[Block, float]) -> int:
    """Smallest step at which most widths save time: they cost clearly less than every wider one."""
    times = {block.out: ratios[block] for block in GRANULE_BLOCKS}
    for step in STEPS:
        savings = sum(_saves_time(base + step, times) for base in BASES)
        if 2 * savings > len(BASES):
            return step
    return 2 * STEPS[-1]


def _saves_time(width: int, times: Mapping[int, float]) -> bool:
    """True if ``width`` saves at least a third of what the square of the width predicts, against every wider one."""
    wider = (other for other in times if other > width)
    return all(times[other] / times[width] > 1 + ((other / width) ** 2 - 1) / 3 for other in wider)


@dataclass(frozen=True)
class Waste:
    """A layer whose width is no multiple of the step; ``more``: its extra cost as a share of the next multiple's."""

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
    """List the layers of a file that would be faster with more channels; both widths are measured as blocks."""
    pairs = [
        (name, block, _rounded(block, multiple))
        for name, block in named_blocks(path, side=side, batch=batch)
        if block is not None and block.out >= NARROW and block.out % multiple
    ]
    if not pairs:
        return ()
    times = time_blocks(
        [either for _, block, wider in pairs for either in (block, wider)], threads=threads
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
