"""What is asked for, what the machine can do, and what comes of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressor.errors import UsageError
from compressor.training import precision
from compressor.training.precision import Arithmetic, Precision, choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("features", "chosen"),
    [
        ({"avx512_f", "avx512_bf16"}, "bf16"),
        ({"amx_tile", "amx_bf16"}, "bf16"),
        ({"avx2", "avx512_f"}, "fp32"),
        (set(), "fp32"),
    ],
)
def test_auto_takes_bf16_only_on_a_cpu_that_computes_it(monkeypatch, features, chosen):
    monkeypatch.setattr(precision, "_cpu_features", lambda: frozenset(features))
    assert choose_precision("auto", CPU).name == chosen


def test_both_ways_to_ask_this_cpu_agree(monkeypatch):
    told_by_torch = precision._cpu_features()
    assert told_by_torch, "torch tells nothing about this CPU"
    if not precision.Path("/proc/cpuinfo").exists():
        pytest.skip("no /proc/cpuinfo here to compare with")
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    told_by_linux = precision._cpu_features()
    for name in precision._NATIVE_BF16:
        assert (name in told_by_torch) == (name in told_by_linux)


def test_fp16_outside_cuda_is_refused():
    with pytest.raises(UsageError, match="`fp16` needs a CUDA device, this is `cpu`"):
        choose_precision("fp16", CPU)


def test_bf16_where_nothing_computes_it_is_refused():
    with pytest.raises(UsageError, match="`meta` does not compute bf16"):
        choose_precision("bf16", torch.device("meta"))


def test_an_unknown_device_gets_fp32():
    assert choose_precision("auto", torch.device("mps")).name == "fp32"


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_layers_compute_in_the_precision_chosen_whatever_surrounds_them(name, dtype):
    layer = torch.nn.Linear(3, 3)
    with (
        torch.autocast("cpu", torch.float16),
        Arithmetic(CPU, Precision(name, "asked for")).autocast(),
    ):
        assert layer(torch.ones(1, 3)).dtype == dtype


def test_a_network_with_a_tensor_of_five_axes_is_copied_too() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    network.register_buffer("grid", torch.zeros(1, 2, 3, 4, 5))
    copied = Arithmetic.on(torch.device("cpu"), "fp32").copy(network)
    assert torch.equal(copied.grid, network.grid)
    assert copied[0].weight.is_contiguous(memory_format=torch.channels_last)
