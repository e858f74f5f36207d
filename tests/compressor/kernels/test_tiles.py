"""The work tables of the kernel: what is read, where sums lie, and what is refused."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.errors import CompressError, UsageError
from compressor.pruning.scoring.kernels import tiles
from compressor.pruning.scoring.kernels.tiles import (
    Weight,
    gate_tiles,
    moment_mask,
    moment_order,
    weight_tiles,
)
from tests.compressor.kernels.machine import Machine


def dense(*shape: int, scalar: int = 0, aligned: bool = True) -> Weight:
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return Weight(shape, strides, scalar, aligned)


def test_the_tables_have_the_layout_of_the_kernels_structs(machine: Machine) -> None:
    library = machine.instance(31, 0, True)
    assert (tiles.JOB.itemsize, tiles.OUTPUT.itemsize) == (48, 56)
    assert library.size_of_job() == tiles.JOB.itemsize
    assert library.size_of_output() == tiles.OUTPUT.itemsize
    assert library.size_of_pointers() == 16 * tiles.SLOTS


def test_a_convolution_is_read_once_for_both_axes() -> None:
    plan = weight_tiles([dense(40, 64, 3, 3)], [(0, 0), (0, 1)], 1)
    assert plan.jobs[["rows", "columns"]].tolist() == [(40, 576)]
    assert plan.tile_jobs.tolist() == [0] * 4
    assert [(block.channels, block.offset) for block in plan.blocks] == [(40, 0), (64, 40)]
    assert plan.workspace_floats == 40 * 2 + 576 * 2
    assert plan.result_doubles == 104


def test_a_vector_is_one_row_and_nobody_asked_means_nothing_is_read() -> None:
    plan = weight_tiles([dense(9, 9), dense(1000)], [(1, 0)], 1)
    assert plan.jobs[["rows", "columns", "row_partials"]].tolist() == [(1, 1000, -1)]
    assert plan.launches[0].numbers == (1,)


def test_an_empty_tensor_gets_no_tile_and_its_channels_are_still_written() -> None:
    plan = weight_tiles([dense(5, 0, 3)], [(0, 0), (0, 1)], 3)
    assert len(plan.jobs) == len(plan.tile_jobs) == len(plan.launches) == 0
    assert plan.result_doubles == 10
    assert len(plan.block_outputs) == 1


@pytest.mark.parametrize(
    ("weight", "vector"),
    [
        (dense(8, 12), True),
        (dense(8, 12, aligned=False), False),
        (dense(8, 13), False),
        (dense(8, 12, scalar=1), False),
        (dense(8, 16, scalar=2), True),
        (dense(16), True),
    ],
)
def test_wide_loads_need_aligned_memory_and_rows_of_whole_loads(weight: Weight, vector: bool) -> None:
    assert [launch.vector for launch in weight_tiles([weight], [(0, 0)], 1).launches] == [vector]


def test_a_launch_carries_at_most_as_many_tensors_as_there_are_slots() -> None:
    weights = [dense(64, 40) for _ in range(tiles.SLOTS + 3)]
    plan = weight_tiles(weights, [(number, 0) for number in range(len(weights))], 1)
    first, second = plan.launches
    assert (len(first.numbers), len(second.numbers)) == (tiles.SLOTS, 3)
    assert second.first_tile == first.tiles == 2 * tiles.SLOTS
    assert plan.jobs["slot"].max() < tiles.SLOTS


@given(
    st.lists(st.tuples(*[st.integers(0, 70)] * 2, st.integers(0, 40)), min_size=1, max_size=6),
    st.integers(1, 31),
)
def test_partial_sums_of_different_tensors_never_meet(shapes: list[tuple[int, ...]], mask: int) -> None:
    weights = [dense(*shape) for shape in shapes]
    plan = weight_tiles(weights, [(n, axis) for n in range(len(weights)) for axis in range(3)], mask)
    spans = []
    for job in plan.jobs:
        rows, columns = int(job["rows"]), int(job["columns"])
        for first, lines in (
            ("row_partials", rows * job["column_tiles"]),
            ("column_partials", columns * job["row_tiles"]),
        ):
            if job[first] >= 0:
                spans.append((int(job[first]), int(job[first] + lines * mask.bit_count())))
    spans.sort()
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert not spans or spans[-1][1] <= plan.workspace_floats
    assert plan.tile_jobs.size == sum(launch.tiles for launch in plan.launches)


def test_moments_are_a_mask_and_come_back_in_the_asked_order() -> None:
    assert moment_mask(["w2", "wg"]) == 9
    assert moment_order(["w2", "wg"]) == [1, 0]
    with pytest.raises(UsageError, match="unknown moment `wgg`") as caught:
        moment_mask(["wgg"])
    assert "`wg`" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no moment"):
        moment_mask([])


def test_memory_with_holes_and_axes_that_do_not_exist_are_refused() -> None:
    with pytest.raises(CompressError, match=r"strides \(10, 1\): expected dense") as caught:
        weight_tiles([Weight((4, 5), (10, 1), 0, True)], [(0, 0)], 1)
    assert "contiguous" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no axis 2"):
        weight_tiles([dense(4, 5)], [(0, 2)], 1)
    with pytest.raises(UsageError, match="no tensor 1 among 1"):
        weight_tiles([dense(4, 5)], [(1, 0)], 1)


def test_maps_of_neighbouring_numbers_are_summed_by_warps_and_the_others_by_blocks() -> None:
    maps = gate_tiles((2, 6, 8, 8), (384, 64, 8, 1), 1, 0, True)
    assert (maps.columns, maps.vector, maps.rows, maps.blocks, maps.partial_floats) == (False, True, 12, 2, 0)
    last = gate_tiles((2, 6, 8, 8), (384, 1, 48, 6), 1, 0, True)
    assert (last.columns, last.vector, last.positions, last.blocks) == (True, False, 64, 2)
    long = gate_tiles((2, 3, 9000), (27000, 9000, 1), 1, 0, True)
    assert (long.splits, long.blocks, long.partial_floats, long.total_blocks) == (3, 3, 18, 1)


def test_an_activation_must_hold_one_sample_after_the_other() -> None:
    with pytest.raises(CompressError, match="one sample after another"):
        gate_tiles((4, 5, 6), (1, 24, 4), 1, 0, True)
    with pytest.raises(UsageError, match="no channel axis 0 after axis 0"):
        gate_tiles((4, 5), (5, 1), 0, 0, True)
