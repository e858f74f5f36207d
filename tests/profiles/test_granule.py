"""The granule is the step below which no time is saved, and layers whose width is no multiple of it are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.profiling.blocks import Block, side_by_side
from compressor.profiling.granule import GRANULE_BLOCKS, STEPS, Waste, granule_from, wasteful_widths


@pytest.mark.parametrize("granule", [*STEPS, 2 * STEPS[-1]])
def test_a_device_that_pads_to_a_multiple_has_that_granule(granule: int) -> None:
    """Times of a device that does the work of the next multiple, for input and output channels."""
    times = {block: float((-(-block.out // granule) * granule) ** 2) for block in GRANULE_BLOCKS}
    assert granule_from(times) == granule


def test_a_device_that_is_slower_between_multiples_has_their_granule() -> None:
    times = {block: block.out**2 * (1.0 if block.out % 8 == 0 else 1.4) for block in GRANULE_BLOCKS}
    assert granule_from(times) == 8


def test_a_layer_off_the_granule_is_told_with_what_it_costs(tmp_path: Path) -> None:
    """63 channels leave ONNX Runtime's blocked layout wherever it has one; 64 do not."""
    block = Block("Conv", (28, 28), 63, 63, 1, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), ("Relu",))
    path = tmp_path / "odd.onnx"
    path.write_bytes(side_by_side([block, block.at(64, 64, 1)])[0])

    found = wasteful_widths(path)

    assert {(waste.width, waste.better) for waste in found} <= {(63, 64)}
    assert all(waste.more > 0.03 for waste in found)


def test_a_file_on_the_granule_has_nothing_to_tell(tmp_path: Path) -> None:
    path = tmp_path / "even.onnx"
    path.write_bytes(
        side_by_side([Block("Conv", (8, 8), 64, 64, 1, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1))])[0]
    )
    assert wasteful_widths(path) == ()


def test_waste_reads_as_a_sentence() -> None:
    assert str(Waste("layer1.0", 63, 64, 0.38)) == "layer1.0: 63 channels cost 38% more than 64 here"
