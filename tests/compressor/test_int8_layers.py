"""How few layers stay in float32: found by doubling and halving, never more than half."""

from __future__ import annotations

import pytest

from compressor.artifacts.int8_layers import ROUNDS, fewest

LAYERS = [f"layer{number}" for number in range(200)]


@pytest.mark.parametrize("needed", [1, 2, 3, 5, 8, 13, 63, 64, 65, 99, 100])
def test_the_least_beginning_that_passes_is_found_in_few_rounds(needed: int) -> None:
    asked: list[int] = []

    def passes(exclude: tuple[str, ...]) -> bool:
        asked.append(len(exclude))
        assert exclude == tuple(LAYERS[: len(exclude)])
        return len(exclude) >= needed

    found = fewest(LAYERS, passes)
    assert found is not None
    assert len(found) >= needed
    assert len(asked) <= ROUNDS
    assert len(asked) == len(set(asked))
    # As many rounds as there are: what is left between is less than a tenth of what stays.
    assert len(found) - needed <= max(1, needed // 10)


def test_more_than_half_is_not_tried() -> None:
    asked: list[int] = []
    assert fewest(LAYERS, lambda exclude: bool(asked.append(len(exclude)))) is None
    assert max(asked) == 100


@pytest.mark.parametrize("count", [0, 1])
def test_a_network_of_one_layer_has_no_half(count: int) -> None:
    assert fewest(LAYERS[:count], lambda exclude: True) is None
