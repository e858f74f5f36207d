"""The sums that scoring lives on: plain torch against the float64 formulas, over every layout it may meet."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressor.pruning.scoring.kernels import reference, torch_sums
from compressor.pruning.scoring.kernels.sums import MOMENTS, channel_sums, gate_sums

# Within a block float32: torch adds in a cascade of four levels, each of at most 32 numbers in a row for the 2^18 of a
# block; a product and its square are two roundings more. Sums of blocks are float64. The error is relative to the sum
# of magnitudes, because what is left of a sum that cancels is no measure.
BOUND = (4 * 32 + 2) * 2.0**-24
LAYOUTS = ("contiguous", "channels last", "transposed", "every other", "offset", "expanded")
SETTINGS = settings(max_examples=25, deadline=None)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor of some dozen numbers then has several blocks, some of them less than a row."""
    monkeypatch.setattr(torch_sums, "CPU_BLOCK", 24)


def laid_out(value: Tensor, layout: str) -> Tensor:
    """The same numbers, otherwise in memory."""
    if layout == "channels last" and value.dim() > 2:
        return value.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "transposed" and value.dim() > 1:
        return value.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "every other":
        return torch.stack([value, value + 1], -1).flatten(-2)[..., ::2] if value.dim() else value
    if layout == "offset":
        return torch.cat([value.new_zeros(1), value.reshape(-1)])[1:].view(value.shape)
    if layout == "expanded" and value.dim() > 1:
        return value[:1].expand(value.shape)
    return value.contiguous()


def numbers(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_equal_to_reference(weight: Tensor, gradient: Tensor, axes: tuple[int, ...]) -> None:
    found = channel_sums([weight], [gradient], [(0, axis) for axis in axes], MOMENTS).values
    for axis, sums in zip(axes, found, strict=True):
        assert (sums.dtype, sums.shape) == (torch.float64, (len(MOMENTS), weight.shape[axis]))
        expected = reference.weight_sums(weight, gradient, axis, MOMENTS)
        magnitude = reference.weight_sums(weight.abs(), gradient.abs(), axis, MOMENTS)
        assert ((sums - expected).abs() <= BOUND * magnitude).all(), (weight.shape, axis)


@SETTINGS
@given(
    shape=st.lists(st.sampled_from([1, 2, 3, 5, 7, 8, 13, 31]), min_size=1, max_size=4).map(tuple),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_sums_are_those_of_the_formulas_in_float64_whatever_the_shape_and_layout(
    shape: tuple[int, ...], layouts: tuple[str, str], dtype: torch.dtype, seed: int
) -> None:
    weight = laid_out(numbers(shape, seed, dtype), layouts[0])
    gradient = laid_out(numbers(shape, seed + 1, dtype), layouts[1])
    assert_equal_to_reference(weight, gradient, tuple(range(len(shape))))


def test_one_axis_alone_gives_what_both_give_together() -> None:
    weight, gradient = numbers((13, 7, 3, 3), 0, torch.float32), numbers((13, 7, 3, 3), 1, torch.float32)
    both = channel_sums([weight], [gradient], [(0, 0), (0, 1)], MOMENTS).values
    alone = [channel_sums([weight], [gradient], [(0, axis)], MOMENTS).values[0] for axis in (0, 1)]
    assert all(torch.equal(one, other) for one, other in zip(both, alone, strict=True))


def test_many_tensors_come_back_in_the_order_they_were_asked_for() -> None:
    weights = [
        numbers(shape, n, torch.float32) for n, shape in enumerate([(5,), (4, 3), (5, 1, 3, 3), (2,), (3, 4)])
    ]
    gradients = [numbers(tuple(w.shape), 9, torch.float32) for w in weights]
    axes = [(4, 1), (3, 0), (1, 0), (0, 0), (1, 1), (2, 0), (2, 1), (4, 0), (4, 1)]
    found = channel_sums(weights, gradients, axes, ["wg", "w2"]).values
    for (number, axis), sums in zip(axes, found, strict=True):
        expected = reference.weight_sums(weights[number], gradients[number], axis, ("wg", "w2"))
        torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-5)


def test_the_sums_of_a_small_matrix_are_those_of_a_pencil() -> None:
    weight, gradient = torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.tensor([[2.0, 1.0], [0.0, -1.0]])
    rows, columns = channel_sums([weight], [gradient], [(0, 0), (0, 1)], MOMENTS).values
    #                       wg          |wg|        (wg)^2       w^2          |w|
    assert rows.tolist() == [[0, -4], [4, 4], [8, 16], [5, 25], [3, 7]]
    assert columns.tolist() == [[2, -6], [2, 6], [4, 20], [10, 20], [4, 6]]


def test_a_tensor_of_blocks_of_the_usual_size_is_summed_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert torch_sums.CPU_BLOCK > 100_000
    for shape in [(3, 300_000), (700, 1031), (1, 600_001)]:
        assert_equal_to_reference(numbers(shape, 0, torch.float32), numbers(shape, 1, torch.float32), (0, 1))


def test_an_empty_tensor_has_sums_of_zero() -> None:
    for shape in [(0, 3), (3, 0), (4, 0, 3, 3), (0,)]:
        empty = torch.empty(shape)
        for axis in range(len(shape)):
            (sums,) = channel_sums([empty], [empty], [(0, axis)], MOMENTS).values
            assert sums.shape == (len(MOMENTS), shape[axis])
            assert not sums.any()


def test_products_of_float16_do_not_overflow() -> None:
    large = torch.full((2, 3), 60000.0, dtype=torch.float16)
    for sums in channel_sums([large], [large], [(0, 0), (0, 1)], ["wg", "w2"]).values:
        assert sums.isfinite().all()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_not_finite_shows_in_its_own_row_and_column_only(poison: float) -> None:
    weight, gradient = numbers((9, 8, 3, 3), 0, torch.float32), numbers((9, 8, 3, 3), 1, torch.float32)
    gradient[4, 2, 1, 1] = poison
    for axis, place in ((0, 4), (1, 2)):
        (sums,) = channel_sums([weight], [gradient], [(0, axis)], ["wg", "abs_wg", "wg2"]).values
        broken = torch.zeros(weight.shape[axis], dtype=torch.bool)
        broken[place] = True
        assert torch.equal(sums.isfinite(), ~broken.expand_as(sums))


@SETTINGS
@given(
    rows=st.integers(1, 20), columns=st.integers(1, 20), power=st.integers(-20, 20), seed=st.integers(0, 1000)
)
def test_permuting_scaling_and_silencing_channels_does_to_the_sums_what_it_should(
    rows: int, columns: int, power: int, seed: int
) -> None:
    weight, gradient = (
        numbers((rows, columns, 3), seed, torch.float32),
        numbers((rows, columns, 3), 1, torch.float32),
    )
    silent = seed % rows
    weight[silent] = 0

    def sums(w: Tensor, g: Tensor) -> list[Tensor]:
        return channel_sums([w], [g], [(0, 0), (0, 1)], ["wg", "abs_wg"]).values

    of_rows, of_columns = sums(weight, gradient)
    assert not of_rows[:, silent].any()
    # Both sides add the same products, each in its own order.
    magnitude = (weight * gradient).abs().sum().item()
    torch.testing.assert_close(of_rows.sum(1), of_columns.sum(1), rtol=0, atol=BOUND * magnitude)
    # A power of two moves no bit of a mantissa.
    scaled = sums(weight, gradient * 2.0**power)
    assert all(torch.equal(s, o * 2.0**power) for s, o in zip(scaled, (of_rows, of_columns), strict=True))
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    permuted = sums(weight[order], gradient[order])
    torch.testing.assert_close(permuted[0], of_rows[:, order], rtol=0, atol=BOUND * magnitude)
    torch.testing.assert_close(permuted[1], of_columns, rtol=0, atol=BOUND * magnitude)


def test_parameters_that_learn_are_summed_without_a_graph() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 2))
    bias = torch.nn.Parameter(torch.ones(3))
    found = channel_sums([weight, bias], [weight, bias], [(0, 0), (0, 1), (1, 0)], MOMENTS).values
    assert not any(sums.requires_grad for sums in found)


def test_the_sums_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    weight, gradient = numbers((300, 1031), 0, torch.float32), numbers((300, 1031), 1, torch.float32)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(channel_sums([weight], [gradient], [(0, 0), (0, 1)], ["wg"]).values)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@SETTINGS
@given(
    shape=st.lists(st.sampled_from([1, 2, 3, 5, 8, 13]), min_size=2, max_size=4).map(tuple),
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_gates_are_sums_per_sample_and_channel_whatever_the_shape_and_layout(
    shape: tuple[int, ...], layout: str, dtype: torch.dtype, seed: int, data: st.DataObject
) -> None:
    channel = data.draw(st.integers(1, len(shape) - 1))
    activation, gradient = laid_out(numbers(shape, seed, dtype), layout), numbers(shape, seed + 1, dtype)
    found = gate_sums(activation, gradient, channel)
    assert found.shape == (shape[0], shape[channel])
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    magnitude = reference.gate_sums(activation.abs(), gradient.abs(), channel)
    assert ((found - reference.gate_sums(activation, gradient, channel)).abs() <= BOUND * magnitude).all()


def test_an_empty_activation_has_gates_of_zero() -> None:
    assert gate_sums(torch.empty(0, 3, 4), torch.empty(0, 3, 4), 1).shape == (0, 3)
    assert gate_sums(torch.empty(2, 3, 0), torch.empty(2, 3, 0), 1).tolist() == [[0.0] * 3] * 2
