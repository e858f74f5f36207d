"""Who computes the sums, and what is said where the request cannot be met."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from compressor.errors import CompressError, UsageError
from compressor.pruning.scoring.kernels import sums
from compressor.pruning.scoring.kernels.sums import BACKENDS, Choice, channel_sums, choose, gate_sums

ONES = torch.ones(2, 3)


def test_on_a_cpu_torch_is_the_choice_and_no_fallback() -> None:
    for backend in ("auto", "torch"):
        sums = channel_sums([ONES], None, [(0, 0)], ["w2"], backend)
        assert (sums.backend, sums.fallback) == ("torch on cpu", None)
        assert sums.values[0].tolist() == [[3.0, 3.0]]


def test_the_kernel_asked_for_by_name_on_a_cpu_is_an_error_with_the_reason() -> None:
    for work in (
        lambda: channel_sums([ONES], None, [(0, 0)], ["w2"], "cuda"),
        lambda: gate_sums(ONES, ONES, 1, "cuda"),
    ):
        with pytest.raises(
            UsageError, match="the tensors are on cpu, and the kernel runs on a CUDA device"
        ) as error:
            work()
        assert "auto" in str(error.value.hint)


def test_an_unknown_backend_or_moment_lists_the_right_names() -> None:
    with pytest.raises(UsageError, match="unknown kernel backend `cuds`") as error:
        choose([ONES], "cuds")
    assert "cuda" in str(error.value.hint)
    with pytest.raises(UsageError, match="unknown moment `wgg`") as error:
        channel_sums([ONES], [ONES], [(0, 0)], ["wgg"])
    assert "wg" in str(error.value.hint)


def test_a_moment_of_gradients_without_gradients_is_an_error_and_one_of_weights_is_not() -> None:
    with pytest.raises(UsageError, match="`wg` needs gradients"):
        channel_sums([ONES], None, [(0, 0)], ["w2", "wg"])
    assert channel_sums([ONES], None, [(0, 1)], ["w2", "abs_w"]).values[0].shape == (2, 3)


@pytest.mark.parametrize(
    ("weights", "gradients", "axes", "words"),
    [
        ([ONES], [ONES], [(1, 0)], "there is no tensor 1: expected 0 to 0"),
        ([ONES], [ONES], [(0, 2)], r"tensor 0 of shape \[2, 3\] has no axis 2"),
        ([ONES], [ONES.t()], [(0, 0)], r"tensor 0 has shape \[2, 3\] and its gradient \[3, 2\]"),
        ([ONES, ONES], [ONES], [(0, 0)], "2 weights and 1 gradients"),
        ([ONES.int()], [ONES], [(0, 0)], "tensor 0 has type torch.int32"),
        (
            [ONES, ONES.to("meta")],
            [ONES, ONES],
            [(0, 0), (1, 0)],
            "are on cpu, meta; all must be on one device",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(
    weights: list[torch.Tensor], gradients: list[torch.Tensor], axes: list[tuple[int, int]], words: str
) -> None:
    with pytest.raises(CompressError, match=words):
        channel_sums(weights, gradients, axes, ["wg"])


def test_gates_of_unequal_shapes_or_of_samples_are_an_error() -> None:
    with pytest.raises(CompressError, match=r"shape \[2, 3\] has a gradient of shape \[3, 2\]"):
        gate_sums(ONES, ONES.t(), 1)
    for channel in (0, 2):
        with pytest.raises(CompressError, match=f"channels in dimension {channel}"):
            gate_sums(ONES, ONES, channel)


def test_gates_that_the_kernel_refuses_are_summed_by_torch_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel is chosen for tensors on a CPU, which it then refuses as it would any others it cannot read."""
    monkeypatch.setattr(sums, "choose", lambda tensors, backend="auto": Choice(True, "cuda kernel"))
    told: list[Choice] = []
    assert gate_sums(ONES, ONES, 1, "auto", told.append).tolist() == ONES.tolist()
    (choice,) = told
    assert choice.backend == "torch on cpu"
    assert choice.fallback
    with pytest.raises(UsageError, match="the backend `cuda` cannot run"):
        gate_sums(ONES, ONES, 1, "cuda", told.append)


def test_nothing_asked_for_is_nothing_given() -> None:
    for backend in ("auto", "torch"):
        assert channel_sums([], [], [], ["wg"], backend).values == []


def test_a_cpu_never_loads_what_belongs_to_cuda() -> None:
    code = (
        "import sys, torch; from compressor.pruning.scoring.kernels.sums import channel_sums, gate_sums\n"
        "x = torch.ones(2, 3); channel_sums([x], [x], [(0, 0)], ['wg']); gate_sums(x, x, 1)\n"
        "print([name for name in sys.modules if name.startswith('compressor.pruning.scoring.kernels.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.strip(" '[]\n").rpartition(".")[2] for name in done.stdout.split(",")}
    assert loaded == {"torch_sums", "reference", "sums"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_what_the_kernel_cannot_read_is_summed_by_torch_and_said() -> None:
    double = ONES.double().cuda()
    sums = channel_sums([double], None, [(0, 0)], ["w2"])
    assert sums.backend == "torch on cuda"
    assert sums.fallback == "the kernel reads float32, float16 and bfloat16, not float64"
    with pytest.raises(UsageError, match="not float64"):
        channel_sums([double], None, [(0, 0)], ["w2"], "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_every_backend_gives_the_same_sums() -> None:
    x = torch.randn(17, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = channel_sums([x], [x], [(0, 0), (0, 1)], ["wg"]).values
    for backend in BACKENDS:
        found = channel_sums([x.cuda()], [x.cuda()], [(0, 0), (0, 1)], ["wg"], backend)
        assert (found.fallback is None) == (backend != "auto" or "kernel" in found.backend)
        for one, other in zip(found.values, expected, strict=True):
            torch.testing.assert_close(one.cpu(), other, rtol=1e-5, atol=1e-5)
