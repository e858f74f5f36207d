"""Activation x gradient summed per sample and channel, by the kernel's own source on this CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.compressor.kernels.expected import GATES, excess
from tests.compressor.kernels.machine import Machine, gate_sums

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
CASES = {
    "small maps": ((2, 5, 7, 7), 1, False),
    "maps that fill loads": ((2, 5, 8, 8), 1, False),
    "maps over several stretches": ((2, 3, 4100), 1, False),
    "channels last": ((2, 5, 7, 7), 1, True),
    "channels last, whole loads": ((2, 136, 3, 3), 1, True),
    "tokens": ((2, 300, 24), 2, False),
    "tokens with many channels": ((1, 9, 300), 2, False),
    "no positions": ((3, 10), 1, False),
    "channels in the middle": ((2, 3, 4, 5), 2, False),
    "one sample and channel": ((1, 1, 70), 1, False),
    "no samples": ((0, 4, 3), 1, False),
    "nothing to sum": ((2, 4, 0), 1, False),
}


def pair(shape: tuple[int, ...], dtype: torch.dtype, last: bool = False) -> list[Tensor]:
    draw = torch.Generator().manual_seed(sum(shape))
    held = [torch.randn(shape, generator=draw).to(dtype) for _ in range(2)]
    return [tensor.to(memory_format=torch.channels_last) for tensor in held] if last else held


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_the_sums_of_each_sample_and_channel_are_those_of_float64(
    machine: Machine, case: tuple[tuple[int, ...], int, bool], dtype: torch.dtype
) -> None:
    shape, channel, last = case
    a, g = pair(shape, dtype, last)
    found = gate_sums(machine, a, g, channel)
    assert found.shape == (shape[0], shape[channel])
    assert excess(found, a.double() * g.double(), GATES, 0, channel) <= 1
    assert gate_sums(machine, a, g, channel, backwards=True).tobytes() == found.tobytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(
        st.integers(1, 3),
        st.integers(1, 9),
        st.sampled_from([1, 2, 7, 8, 33]),
        st.sampled_from([1, 3, 8, 64]),
    ),
    channel=st.integers(1, 3),
    offset=st.integers(0, 3),
)
def test_any_channel_axis_at_any_address_gives_the_sums_of_float64(
    machine: Machine, shape: tuple[int, ...], channel: int, offset: int
) -> None:
    a, g = pair(shape, torch.float32)
    shifted = torch.empty(a.numel() + offset)[offset:].view(shape).copy_(a)
    assert excess(gate_sums(machine, shifted, g, channel), a.double() * g.double(), GATES, 0, channel) <= 1


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_every_number_of_16_bits_is_read_as_itself(machine: Machine, dtype: torch.dtype) -> None:
    # For fp16 this is the widening of a CPU build; a GPU has an instruction for it.
    a = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).view(1, -1)
    found = gate_sums(machine, a, torch.ones_like(a), 1)
    assert np.array_equal(found, a.float().numpy(), equal_nan=True)


def test_a_product_past_fp16_stays_finite_and_a_broken_number_stays_in_its_channel(machine: Machine) -> None:
    a = torch.full((2, 4, 64), 60000.0, dtype=torch.float16)
    assert np.isfinite(gate_sums(machine, a, a, 1)).all()
    a[1, 2, 5] = float("nan")
    assert np.argwhere(np.isnan(gate_sums(machine, a, a, 1))).tolist() == [[1, 2]]
