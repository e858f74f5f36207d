"""Would these tests see a mistake? Each mutant is the kernel with one seeded fault; each must be noticed.

A fault counts as noticed if a sum is outside its bound, two runs differ, or the machine refuses (a barrier that not all
threads reach, a wild read, a write beside the workspace).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.compressor.kernels.expected import GATES, excess, worst_of_weights
from tests.compressor.kernels.machine import SOURCE, Machine, RefusedError, gate_sums, weight_sums, why_not

MASK = 3  # two sums of every number: enough for what one leaves behind for the next
MUTANTS = {
    "no barrier before warps are added": (
        "__syncthreads();\n        for (int slot",
        "for (int slot",
        "vector",
    ),
    "no barrier before shared memory is used again": ("if (kind > 0) __syncthreads();", "", "vector"),
    "no barrier among positions": ("__syncthreads();\n    const int slot", "const int slot", "vector"),
    "a barrier that one warp misses": (
        "if (job.column_partials < 0) return;",
        "if (warp == 7 && lane == 0) return;",
        "vector",
    ),
    "half a shuffle": ("distance = LANES / 2;", "distance = LANES / 4;", "vector"),
    "a shuffle of half the lanes": ("0xffffffffu, value", "0xffffu, value", "vector"),
    "the gradient's row stride": (
        "read_neighbours(gradient, row * job.columns,",
        "read_neighbours(gradient, row * job.rows,",
        "vector",
    ),
    "a dropped tail": ("first + i < end", "first + i + 1 < end", "scalar"),
    "a load past the end": ("if (first < end) read_pack", "if (first <= end) read_pack", "vector"),
    "one row too many": ("if (row >= job.rows)", "if (row > job.rows)", "scalar"),
    "one column too many": ("if (column < job.columns)", "if (column <= job.columns)", "scalar"),
    "the wrong modulus": ("job.first_tile) % job.row_tiles", "job.first_tile) % job.column_tiles", "vector"),
    "columns of the wrong lane": ("k / PACK * PACK * LANES", "k / PACK * LANES", "vector"),
    "a sign that stays": ("fabsf(product)", "product", "vector"),
    "half of a channel's stretches": ("i < count", "i < run", "vector"),
    "stretches too near": ("outer * output.channels + channel", "outer + channel", "vector"),
    "earlier sums forgotten": ("total += *place", "total += 0 * *place", "vector"),
    "a flag blind to infinity": ("total - total != 0.0", "total != total", "vector"),
    "a stretch cut short": (
        "first + GATE_CHUNK < inner ? first + GATE_CHUNK",
        "first + GATE_CHUNK < inner ? first + GATE_CHUNK - PACK",
        "vector",
    ),
    "too little shared memory": (
        "of_warps[WARPS][GATE_CHANNELS]",
        "of_warps[WARPS - 1][GATE_CHANNELS]",
        "vector",
    ),
    "skipped positions": ("position += WARPS", "position += WARPS + 1", "vector"),
    "partial sums of another sample": (
        "(sample * splits + split) * channels",
        "(split * splits + sample) * channels",
        "vector",
    ),
    "swapped halves of a word": ("(i % 2 * 16)", "((i + 1) % 2 * 16)", "half"),
    "halves without a sign": ("sign ? -size : size", "size", "half"),
}


def faults(machine: Machine, instance: str) -> list[str]:
    """What is wrong with a source, by the least that reaches every line of one of its instances."""
    dtype = torch.float16 if instance == "half" else torch.float32
    draw = torch.Generator().manual_seed(3)
    odd = instance == "scalar"
    shape = (70, 41, 3, 5) if odd else (70, 40, 4, 4)  # 3 tiles of rows, 2 of columns
    found = []

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=draw).to(dtype)

    w, g = normal(*shape), normal(*shape)
    # Either kind of partial sums comes first in the workspace once: 0 is a place, a negative number is none.
    for layout, axes in (
        (torch.contiguous_format, [(0, 0), (0, 1)]),
        (torch.channels_last, [(0, 1), (0, 0)]),
    ):
        a, b = w.to(memory_format=layout), g.to(memory_format=layout)
        sums = weight_sums(machine, [a], [b], axes, MASK)
        if not worst_of_weights(sums.blocks, [a], [b], axes, MASK) <= 1:
            found.append("a sum of a weight is wrong")
        if sums.flagged:
            found.append("the flag is raised over nothing")
    more = weight_sums(machine, [a], [b], axes, MASK, backwards=True, onto=sums.flat.copy())
    if not np.array_equal(more.flat, 2 * sums.flat):
        found.append("sums are not added to earlier ones")
    a[0, 0, 0, 0] = float("inf")
    if not weight_sums(machine, [a], [b.abs() + 1], axes, MASK).flagged:
        found.append("the flag is not raised")
    for sizes, channel in (((2, 3, 4100), 1), ((3, 300, 136), 2)):
        a, b = normal(*sizes), normal(*sizes)
        product = a.double() * b.double()
        both = [gate_sums(machine, a, b, channel, MASK, backwards=order) for order in (False, True)]
        if not all(excess(one, product, GATES, 0, channel) <= 1 for one in both):
            found.append("a sum of an activation is wrong")
    return found


@pytest.mark.parametrize("instance", ["vector", "scalar", "half"])
def test_the_true_source_has_no_fault(tmp_path: Path, instance: str) -> None:
    _require_compiler()
    assert faults(Machine(tmp_path), instance) == []


@pytest.mark.parametrize("name", MUTANTS)
def test_a_seeded_fault_is_noticed(tmp_path: Path, name: str) -> None:
    _require_compiler()
    true, false, instance = MUTANTS[name]
    source = SOURCE.read_text()
    assert source.count(true) == 1, "the mutant's text must be in the source once"
    try:
        noticed = faults(Machine(tmp_path, source.replace(true, false)), instance)
    except RefusedError as refused:
        noticed = [str(refused)]
    assert noticed


def _require_compiler() -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
