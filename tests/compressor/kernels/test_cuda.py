"""The kernel on a GPU against the plain formulas; and what is said where there is no GPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from compressor.errors import CompressError
from compressor.pruning.scoring.kernels import cuda, reference
from compressor.pruning.scoring.kernels.driver import why_no_driver

ALL = ("wg", "abs_wg", "wg2", "w2", "abs_w")
DEVICE = "cuda"
# Products and sums of a tile are rounded in float32, some 25 times on the way of a number into a sum; the sums of
# tiles are float64. What is rounded is a sum of magnitudes, so the error is measured against that.
ROUNDINGS = 40 * 2.0**-24

Shape = tuple[int, ...]
SHAPES: list[Shape] = [
    (64, 32, 3, 3),
    (96, 16, 1, 1),
    (37, 23, 3, 3),
    (48, 1, 5, 5),
    (1000, 513),
    (700,),
    (1,),
    (1, 7, 1),
    (3, 2049),
]


def numbers(shape: Shape, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def network(dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor], list[tuple[int, int]]]:
    weights = [numbers(shape, seed, dtype) for seed, shape in enumerate(SHAPES)]
    gradients = [numbers(shape, 100 + seed, dtype) for seed, shape in enumerate(SHAPES)]
    axes = [(number, axis) for number, shape in enumerate(SHAPES) for axis in range(len(shape))]
    return weights, gradients, axes


def assert_right(
    found: Sequence[Tensor],
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    axes: Sequence[tuple[int, int]],
    moments: Sequence[str] = ALL,
    times: int = 1,
) -> None:
    assert len(found) == len(axes)
    for values, (number, axis) in zip(found, axes, strict=True):
        weight, gradient = weights[number].cpu(), gradients[number].cpu()
        expected = times * reference.weight_sums(weight, gradient, axis, tuple(moments))
        allowed = (
            times * reference.weight_sums(weight.abs(), gradient.abs(), axis, tuple(moments)) * ROUNDINGS
        )
        assert values.dtype is torch.float64
        assert values.shape == expected.shape
        wrong = (values.cpu() - expected).abs() > allowed
        assert not wrong.any(), f"tensor {number} {tuple(weight.shape)}, axis {axis}"


def same_bits(found: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, others, strict=True))


@pytest.fixture(autouse=True)
def _gpu_where_asked(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip(str(cuda.why_not()))


def test_a_machine_without_a_gpu_is_told_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    expected = "without CUDA" if torch.version.cuda is None else "sees no CUDA device"
    assert expected in str(cuda.why_not())


def test_a_machine_without_a_driver_names_the_library_that_is_missing() -> None:
    reason = why_no_driver()
    if reason is None:
        pytest.skip("there is a CUDA driver here")
    assert reason.startswith("no CUDA driver: cannot load ")


def test_importing_the_launcher_starts_neither_the_compiler_nor_the_driver() -> None:
    code = (
        "import compressor.pruning.scoring.kernels.cuda\n"
        "from compressor.pruning.scoring.kernels import builds, driver, nvrtc\n"
        "made = [f.cache_info().currsize for f in (driver.find_driver, nvrtc.find_compiler, builds.loaded)]\n"
        "assert made == [0, 0, 0], made"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_tensor_on_the_cpu_is_refused_in_words() -> None:
    weight = torch.ones(2, 3)
    with pytest.raises(CompressError, match="tensor 0 is on cpu"):
        cuda.weight_sums([weight], [weight], [(0, 0)], ["wg"])
    with pytest.raises(CompressError, match=r"float32 \[2, 3\] on cpu"):
        cuda.gate_sums(weight, weight, 1)


@pytest.mark.gpu
def test_the_kernel_can_be_used_on_this_gpu() -> None:
    assert cuda.why_not() is None
    assert cuda.described(DEVICE).startswith("cuda kernel, sm_")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_all_sums_of_a_network_are_those_of_the_plain_formulas(dtype: torch.dtype) -> None:
    weights, gradients, axes = network(dtype)
    assert_right(cuda.weight_sums(weights, gradients, axes, ALL), weights, gradients, axes)


@pytest.mark.gpu
@pytest.mark.parametrize("moments", [("wg",), ("w2",), ("abs_w", "wg2", "wg")])
def test_any_choice_of_moments_comes_in_the_order_asked(moments: tuple[str, ...]) -> None:
    weights, gradients, axes = network()
    found = cuda.weight_sums(weights, gradients, axes, moments)
    assert_right(found, weights, gradients, axes, moments)


@pytest.mark.gpu
def test_more_tensors_than_fit_in_one_launch_are_all_summed() -> None:
    weights = [numbers((8, 9), seed) for seed in range(500)]
    gradients = [numbers((8, 9), 1000 + seed) for seed in range(500)]
    axes = [(number, 1) for number in range(500)]
    assert_right(cuda.weight_sums(weights, gradients, axes, ["wg"]), weights, gradients, axes, ["wg"])


@pytest.mark.gpu
def test_tensors_are_read_in_any_layout_and_from_any_address() -> None:
    off = numbers((64 * 48 + 1,), 0)[1:].view(64, 48)
    last = numbers((64, 32, 3, 3), 1).to(memory_format=torch.channels_last)
    holes = numbers((64, 96), 2)[:, ::2]
    flat = numbers((64, 48), 3).t()
    weights = [off, last, holes, flat]
    gradients = [numbers(tuple(weight.shape), 10 + i) for i, weight in enumerate(weights)]
    gradients[0] = numbers((1,), 9).expand(64, 48)
    axes = [(number, axis) for number in range(4) for axis in (0, 1)]
    assert_right(cuda.weight_sums(weights, gradients, axes, ALL), weights, gradients, axes)


@pytest.mark.gpu
def test_an_address_that_forbids_wide_loads_changes_no_bit() -> None:
    weight, gradient = numbers((128, 256), 0), numbers((128, 256), 1)
    off = torch.empty(128 * 256 + 1, device=DEVICE)[1:].view(128, 256).copy_(weight)
    found = cuda.weight_sums([weight], [gradient], [(0, 0), (0, 1)], ALL)
    assert same_bits(found, cuda.weight_sums([off], [gradient], [(0, 0), (0, 1)], ALL))


@pytest.mark.gpu
def test_a_hundred_runs_give_the_same_bits() -> None:
    weights, gradients, axes = network()
    first = cuda.weight_sums(weights, gradients, axes, ALL)
    for _ in range(100):
        assert same_bits(cuda.weight_sums(weights, gradients, axes, ALL), first)


@pytest.mark.gpu
@pytest.mark.parametrize("moments", [("wg",), ALL, ("w2", "wg")])
def test_sums_are_added_to_earlier_ones(moments: tuple[str, ...]) -> None:
    weights, gradients, axes = network()
    total = cuda.weight_sums(weights, gradients, axes, moments)
    assert cuda.weight_sums(weights, gradients, axes, moments, into=total) is total
    apart = [values.clone() for values in total]
    cuda.weight_sums(weights, gradients, axes, moments, into=total)
    cuda.weight_sums(weights, gradients, axes, moments, into=apart)
    assert_right(total, weights, gradients, axes, moments, times=3)
    assert same_bits(total, apart)


@pytest.mark.gpu
def test_an_infinity_reaches_its_channels_and_no_others() -> None:
    weight, gradient = numbers((40, 30), 0), torch.ones(40, 30, device=DEVICE)
    weight[3, 5] = float("inf")
    rows, columns = (
        values.isfinite() for values in cuda.weight_sums([weight], [gradient], [(0, 0), (0, 1)], ["wg"])
    )
    assert rows.sum() == 39
    assert columns.sum() == 29
    assert not rows[0, 3]
    assert not columns[0, 5]


@pytest.mark.gpu
def test_a_product_past_the_range_of_float16_is_finite() -> None:
    big = torch.full((8, 8), 60000.0, device=DEVICE, dtype=torch.float16)
    (found,) = cuda.weight_sums([big], [big], [(0, 0)], ["wg"])
    assert_right([found], [big], [big], [(0, 0)], ["wg"])


@pytest.mark.gpu
def test_empty_tensors_have_sums_of_zero() -> None:
    weights = [torch.empty(0, 4, device=DEVICE), torch.empty(5, 0, device=DEVICE)]
    found = cuda.weight_sums(weights, weights, [(0, 1), (1, 0), (0, 0)], ["wg"])
    assert [values.tolist() for values in found] == [[[0.0] * 4], [[0.0] * 5], [[]]]


@pytest.mark.gpu
def test_a_type_that_the_kernel_does_not_read_is_refused_by_name() -> None:
    weight = torch.ones(2, 3, device=DEVICE, dtype=torch.float64)
    with pytest.raises(CompressError, match="tensor 0 is float64"):
        cuda.weight_sums([weight], [weight], [(0, 0)], ["wg"])
    with pytest.raises(CompressError, match="its gradient float16"):
        cuda.weight_sums([weight.float()], [weight.half()], [(0, 0)], ["wg"])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "channel"),
    [
        ((3, 8, 7, 7), 1),
        ((2, 64, 56, 56), 1),
        ((2, 3, 224, 224), 1),
        ((2, 197, 192), 2),
        ((5, 11), 1),
        ((2, 6, 4, 5), 3),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_activation_times_gradient_is_summed_for_each_sample_and_channel(
    shape: Shape, channel: int, dtype: torch.dtype, last: bool
) -> None:
    layout = torch.channels_last if last and len(shape) == 4 else torch.contiguous_format
    activation = numbers(shape, 0, dtype).to(memory_format=layout)
    for gradient in (numbers(shape, 1, dtype), numbers((1,), 2, dtype).expand(shape)):
        found = cuda.gate_sums(activation, gradient, channel).cpu()
        expected = reference.gate_sums(activation.cpu(), gradient.cpu(), channel)
        magnitude = reference.gate_sums(activation.abs().cpu(), gradient.abs().cpu(), channel)
        # A lane adds at most some hundred products one after the other before partial sums are added in float64.
        assert found.shape == expected.shape
        assert ((found - expected).abs() <= 200 * 2.0**-24 * magnitude).all()


@pytest.mark.gpu
def test_work_queued_on_another_stream_is_seen_in_its_order() -> None:
    weights, gradients, axes = network()
    expected = cuda.weight_sums(weights, gradients, axes, ["wg"])
    late = [torch.zeros_like(weight) for weight in weights]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(
            20_000_000
        )  # some ten milliseconds: a launch on the default stream would read zeros
        torch._foreach_copy_(late, weights)
        found = cuda.weight_sums(late, gradients, axes, ["wg"])
    stream.synchronize()
    assert same_bits(found, expected)


@pytest.mark.gpu
def test_a_captured_graph_reads_new_numbers_at_the_same_addresses() -> None:
    weights, gradients, axes = network()
    cuda.weight_sums(weights, gradients, axes, ["wg", "abs_w"])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = cuda.weight_sums(weights, gradients, axes, ["wg", "abs_w"])
    for seed, weight in enumerate(weights):
        weight.copy_(numbers(tuple(weight.shape), 500 + seed))
    graph.replay()
    torch.cuda.synchronize()
    assert_right(found, weights, gradients, axes, ["wg", "abs_w"])


@pytest.mark.gpu
def test_a_capture_before_the_first_call_says_what_to_do() -> None:
    weight = numbers((17, 19), 0)
    cuda.weight_sums([weight[:2].contiguous()], None, [(0, 0)], ["w2"])
    with pytest.raises(CompressError, match="CUDA graph") as caught, torch.cuda.graph(torch.cuda.CUDAGraph()):
        cuda.weight_sums([weight], None, [(0, 0)], ["w2"])
    assert "before the capture" in str(caught.value.hint)


@pytest.mark.gpu
def test_a_call_does_not_wait_for_the_device() -> None:
    weights, gradients, axes = network()
    expected = cuda.weight_sums(weights, gradients, axes, ["wg"])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")  # torch raises where it waits
    try:
        busy = torch.cuda.Event()
        torch.cuda._sleep(200_000_000)
        found = cuda.weight_sums(weights, gradients, axes, ["wg"])
        busy.record()
        assert not busy.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert same_bits(found, expected)
