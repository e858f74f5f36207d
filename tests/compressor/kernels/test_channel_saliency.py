"""The kernel's own source, run on this CPU: right against float64, and the same bits whatever the circumstances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.compressor.kernels.expected import WEIGHTS, terms, worst_of_weights
from tests.compressor.kernels.machine import Machine, weight_sums

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = {
    "convolution": (40, 24, 3, 3),
    "odd convolution": (33, 7, 3, 5),
    "grouped": (36, 6, 3, 3),
    "depthwise": (67, 1, 3, 3),
    "transposed": (12, 40, 4, 4),
    "linear": (70, 516),
    "one row": (1, 530),
    "one column": (530, 1),
    "vector": (1030,),
    "one number": (1, 1, 1, 1),
    "no rows": (0, 5),
    "no columns": (5, 0, 3),
}


def pair(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw).to(dtype), torch.randn(shape, generator=draw).to(dtype)


def every_axis(*tensors: Tensor) -> list[tuple[int, int]]:
    return [(number, axis) for number, tensor in enumerate(tensors) for axis in range(tensor.dim())]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_the_sums_over_every_axis_are_those_of_float64(
    machine: Machine, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    w, g = pair(shape, dtype)
    found = weight_sums(machine, [w], [g], every_axis(w))
    assert worst_of_weights(found.blocks, [w], [g], every_axis(w)) <= 1
    assert not found.flagged


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.sampled_from([1, 2, 3, 5, 7, 8, 16, 31, 33, 64]), min_size=1, max_size=4).filter(
        lambda shape: np.prod(shape) <= 40_000
    ),
    dtype=st.sampled_from(DTYPES),
    order=st.permutations(range(4)),
    offsets=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    exponent=st.integers(-20, 20),
)
def test_any_dense_layout_at_any_address_gives_the_sums_of_float64(
    machine: Machine,
    shape: list[int],
    dtype: torch.dtype,
    order: object,
    offsets: tuple[int, int],
    exponent: int,
) -> None:
    permutation = [axis for axis in order if axis < len(shape)]
    back = [permutation.index(axis) for axis in range(len(shape))]
    tensors = []
    for offset, values in zip(offsets, pair(tuple(shape)), strict=True):
        storage = torch.empty(values.numel() + 8, dtype=dtype)
        view = (
            storage[offset : offset + values.numel()]
            .view([shape[axis] for axis in permutation])
            .permute(back)
        )
        tensors.append(view.copy_(values))
    tensors[1] *= 2.0 ** (exponent if dtype != torch.float16 else exponent / 4)
    found = weight_sums(machine, tensors[:1], tensors[1:], every_axis(tensors[0]))
    assert worst_of_weights(found.blocks, tensors[:1], tensors[1:], every_axis(tensors[0])) <= 1


def test_many_tensors_of_several_types_go_in_one_call(machine: Machine) -> None:
    shapes = [(3 + i % 5, 4 + i % 3) for i in range(260)]
    pairs = [pair(shape, DTYPES[i % 40 // 38], seed=i) for i, shape in enumerate(shapes)]
    weights, gradients = [w for w, _ in pairs], [g for _, g in pairs]
    found = weight_sums(machine, weights, gradients, every_axis(*weights))
    assert worst_of_weights(found.blocks, weights, gradients, every_axis(*weights)) <= 1


def test_only_the_asked_axes_and_moments_are_summed(machine: Machine) -> None:
    w, g = pair((36, 20, 3, 3))
    for mask, axes in ((1, [(0, 1)]), (1, [(0, 0)]), (24, [(0, 1), (0, 0), (0, 1)])):
        found = weight_sums(machine, [w], [g], axes, mask)
        assert [block.shape[0] for block in found.blocks] == [mask.bit_count()] * len(axes)
        assert worst_of_weights(found.blocks, [w], [g], axes, mask) <= 1


def test_a_moment_of_the_weight_alone_never_reads_the_gradient(machine: Machine) -> None:
    w, _ = pair((36, 20, 3, 3))
    found = weight_sums(machine, [w], None, every_axis(w), 24)  # the gradient's address is null here
    assert worst_of_weights(found.blocks, [w], [w], every_axis(w), 24) <= 1


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last)


def test_channels_last_is_read_in_the_order_of_its_memory(machine: Machine) -> None:
    w, g = map(channels_last, pair((40, 24, 3, 3)))
    found = weight_sums(machine, [w], [g], every_axis(w))
    assert worst_of_weights(found.blocks, [w], [g], every_axis(w)) <= 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_address_changes_no_bit(machine: Machine, dtype: torch.dtype) -> None:
    w, g = pair((37, 40, 4, 4), dtype)
    shifted = torch.empty(w.numel() + 1, dtype=dtype)[1:].view(w.shape).copy_(w)
    assert shifted.data_ptr() % 16 != 0
    aligned = weight_sums(machine, [w], [g], every_axis(w))
    assert weight_sums(machine, [shifted], [g], every_axis(w)).flat.tobytes() == aligned.flat.tobytes()


def test_the_order_in_which_threads_run_changes_no_bit(machine: Machine) -> None:
    w, g = pair((70, 40, 4, 4))
    first = weight_sums(machine, [w], [g], every_axis(w))
    for backwards in (False, True):
        again = weight_sums(machine, [w], [g], every_axis(w), backwards=backwards)
        assert again.flat.tobytes() == first.flat.tobytes()


def test_results_can_be_added_to_earlier_ones(machine: Machine) -> None:
    w, g = pair((33, 20))
    once = weight_sums(machine, [w], [g], every_axis(w)).flat.copy()
    twice = weight_sums(machine, [w], [g], every_axis(w), onto=once.copy())
    assert np.array_equal(twice.flat, 2 * once)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("side", [0, 1])
def test_one_broken_number_breaks_its_channels_only_and_raises_the_flag(
    machine: Machine, value: float, side: int
) -> None:
    tensors = pair((40, 24, 3, 3))
    tensors[side][33, 7, 1, 2] = value
    found = weight_sums(machine, [tensors[0]], [tensors[1]], [(0, 0), (0, 1)])
    assert found.flagged
    for block, channel in zip(found.blocks, (33, 7), strict=True):
        broken = ~np.isfinite(block)
        assert broken[:3, channel].all()
        assert not np.delete(broken, channel, axis=1).any()


def test_a_product_past_fp16_stays_finite(machine: Machine) -> None:
    w = torch.full((32, 512), 60000.0, dtype=torch.float16)
    found = weight_sums(machine, [w], [w], every_axis(w), 1)
    assert not found.flagged
    assert np.allclose(found.blocks[0], 512 * 60000.0**2)
    assert worst_of_weights(found.blocks, [w], [w], every_axis(w), 1) <= 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("axis", [0, 1])
def test_permuted_channels_have_permuted_sums_to_the_bit(
    machine: Machine, axis: int, layout: torch.memory_format
) -> None:
    w, g = pair((70, 40, 3, 3))
    order = torch.randperm(w.shape[axis], generator=torch.Generator().manual_seed(1))
    # Bits hold for the permuted axis alone: along the other one, the same numbers are added in another order.
    plain, permuted = (
        weight_sums(machine, [a.to(memory_format=layout)], [b.to(memory_format=layout)], [(0, axis)]).blocks[
            0
        ]
        for a, b in ((w, g), (w.index_select(axis, order), g.index_select(axis, order)))
    )
    assert np.array_equal(plain[:, order.numpy()], permuted)


def test_gradients_times_a_power_of_two_give_exactly_scaled_sums(machine: Machine) -> None:
    w, g = pair((40, 24, 3, 3))
    plain = weight_sums(machine, [w], [g], every_axis(w), 7)
    scaled = weight_sums(machine, [w], [g * 2.0**-9], every_axis(w), 7)
    factors = np.array([[2.0**-9], [2.0**-9], [2.0**-18]])
    assert all(np.array_equal(a * factors, b) for a, b in zip(plain.blocks, scaled.blocks, strict=True))


def test_a_silent_channel_scores_exactly_zero(machine: Machine) -> None:
    w, g = pair((40, 24, 3, 3))
    w[5], w[:, 9] = 0, 0
    rows, columns = weight_sums(machine, [w], [g], [(0, 0), (0, 1)]).blocks
    assert not rows[:, 5].any()
    assert not columns[:, 9].any()


def test_every_axis_sums_to_the_same_total(machine: Machine) -> None:
    w, g = pair((70, 40, 3, 3))
    totals = [block.sum(axis=1) for block in weight_sums(machine, [w], [g], every_axis(w)).blocks]
    sizes = np.array([float(v.abs().sum()) for v in terms(w, g)])
    for total in totals[1:]:
        assert (np.abs(total - totals[0]) <= 2 * WEIGHTS * sizes).all()
