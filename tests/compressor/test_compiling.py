"""What ``compile = true`` makes faster gives the same, and says so where it cannot be had."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from compressor.errors import CompressError
from compressor.training import Arithmetic, train
from compressor.training.compiling import compiled, frozen
from tests.compressor.test_training_loop import QUICK, toy_data, toy_network

FP32 = Arithmetic.on(torch.device("cpu"), "fp32")
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler on a CPU, and there is none",
)


class Undecided(nn.Module):
    """A network whose way depends on the values of its input, which no exporter follows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return self.linear(flat) if flat.sum() > 0 else self.linear(-flat)


def test_a_frozen_teacher_answers_as_it_would_itself_for_any_number_of_images() -> None:
    teacher = toy_network().eval().requires_grad_(False)
    notes: list[str] = []
    ask = frozen(teacher, FP32, notes.append)
    for count in (8, 3, 1):
        images = FP32.images(torch.randn(count, 3, 8, 8))
        with torch.no_grad():
            # Another library sums in another order: fp32 rounding.
            torch.testing.assert_close(ask(images), teacher(images), atol=1e-5, rtol=1e-5)
    assert not notes


@needs_compiler
def test_a_teacher_that_cannot_be_exported_is_compiled_and_the_detour_is_told() -> None:
    teacher = Undecided().eval().requires_grad_(False)
    notes: list[str] = []
    ask = frozen(teacher, FP32, notes.append)
    images = torch.randn(5, 1, 2, 2)
    with torch.no_grad():
        torch.testing.assert_close(ask(images), teacher(images))
    assert len(notes) == 1
    assert "cannot be exported" in notes[0]


def test_a_network_that_torch_cannot_compile_is_one_line() -> None:
    torch._dynamo.reset()
    with (  # no compiler of C++
        torch._inductor.config.patch({"cpp.cxx": ("/nonexistent/c++",), "fx_graph_cache": False}),
        pytest.raises(CompressError, match="torch cannot compile `Sequential`") as caught,
    ):
        compiled(nn.Sequential(nn.GELU(), nn.Softplus()))(torch.randn(2, 3))
    assert "compile to false" in str(caught.value.hint)


@needs_compiler
def test_a_compiled_training_learns_the_same() -> None:
    data = toy_data(fixed=False)  # asked live: answers that are kept are never compiled
    network, teacher = toy_network(), toy_network(seed=2)
    network[7] = nn.Identity()  # compiled dropout draws other numbers
    schedule = replace(QUICK, epochs=1)
    eager = train(network, data, schedule, teacher=teacher)
    quick = train(network, data, replace(schedule, compile=True), teacher=teacher)
    assert not quick.warnings
    for name, tensor in eager.network.state_dict().items():
        # Eight steps of fp32 in another order of summation.
        torch.testing.assert_close(quick.network.state_dict()[name], tensor, atol=2e-4, rtol=1e-3)
