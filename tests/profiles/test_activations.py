"""Activation memory: abstract steps counted by hand, and a network against its own file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from compressor.exporting import to_onnx
from compressor.profiling import count, count_file
from compressor.profiling.activations import Activations, Step, activations


def step(layer: str, reads: str, writes: str = "", *, elementwise: bool = False) -> Step:
    return Step((layer,), frozenset(reads), frozenset(writes), elementwise)


def walked(steps: list[Step], kept: str, **sizes: int) -> Activations:
    return activations(steps, sizes, ["x"], kept)


def test_a_tensor_lives_from_its_writer_to_its_last_reader() -> None:
    found = walked([step("1", "x", "a"), step("2", "a", "b"), step("3", "ab", "c")], "c", x=8, a=4, b=2, c=1)
    assert found == Activations(12, {"1": 8 + 4, "2": 4 + 2, "3": 4 + 2 + 1})


def test_an_elementwise_step_overwrites_what_dies_there() -> None:
    dying = [step("1", "x", "a"), step("2", "a", "b", elementwise=True), step("3", "b", "c")]
    assert walked(dying, "c", x=1, a=8, b=8, c=1).peak == 9
    needed = [*dying[:2], step("3", "ab", "c")]
    assert walked(needed, "c", x=1, a=8, b=8, c=1).peak == 17


def test_the_input_and_what_has_another_size_are_never_overwritten() -> None:
    assert walked([step("1", "x", "a", elementwise=True)], "a", x=8, a=8).peak == 16
    smaller = [step("1", "x", "a"), step("2", "a", "b", elementwise=True)]
    assert walked(smaller, "b", x=1, a=8, b=4).peak == 12


def test_elementwise_neighbours_are_one_step_in_both_layers() -> None:
    """``a * sigmoid(a)``: the tensor between them is never stored."""
    pair = [step("2", "a", "s", elementwise=True), step("3", "as", "b", elementwise=True)]
    found = walked([step("1", "x", "a"), *pair], "b", x=1, a=8, s=8, b=8)
    assert found == Activations(9, {"1": 9, "2": 8, "3": 8})
    apart = walked(
        [step("1", "x", "a"), pair[0], step("between", "a", "z"), pair[1]], "bz", x=1, a=8, s=8, b=8, z=1
    )
    assert apart.peak == 17


def test_an_output_that_nobody_reads_is_not_written() -> None:
    assert walked([step("pool", "x", "ai")], "a", x=8, a=2, i=4).peak == 10


class Doubled(nn.Module):
    """A residual sum by hand, a view, and a hand-written SiLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        return (x * x.sigmoid() + self.second(x)).flatten(1)


def test_a_module_needs_what_a_hand_count_says() -> None:
    plane = 10 * 10 * 4
    counted = count(Doubled(), (torch.rand(4, 3, 10, 10),))
    layers = {layer.name: layer.activation_bytes for layer in counted.layers}
    # The sum reads x, its SiLU (one step with the sum), and the output of the second convolution.
    assert layers == {"first": 11 * plane, "norm": 8 * plane, "second": 24 * plane}
    assert counted.activation_bytes == 24 * plane


FAMILIES = ["resnet18", "squeezenet1_1"]
MORE = [
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "densenet121",
    "shufflenet_v2_x0_5",
    "regnet_y_400mf",
]
MORE += ["convnext_tiny"]


def both(name: str, folder: Path) -> tuple[int, int]:
    side = 224 if name.startswith(("vgg", "vit")) else 96  # where pooling and patches divide it
    network, image = models.get_model(name).eval(), torch.rand(1, 3, side, side)
    counted = count_file(to_onnx(network, image, folder / "network.onnx").path)
    assert counted.activation_bytes is not None
    assert max(layer.activation_bytes or 0 for layer in counted.layers) <= counted.activation_bytes
    return count(network, (image,)).activation_bytes, counted.activation_bytes


@pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_a_network_and_its_file_need_the_same_memory(name: str, tmp_path: Path) -> None:
    module, file = both(name, tmp_path)
    assert module == file


@pytest.mark.slow
def test_a_network_of_many_weights_and_its_file_need_the_same_memory(tmp_path: Path) -> None:
    module, file = both("vgg11_bn", tmp_path)
    assert module == file


@pytest.mark.slow
def test_attention_needs_more_as_a_framework_writes_it(tmp_path: Path) -> None:
    module, file = both("vit_b_16", tmp_path)
    assert file < module < 1.25 * file


def test_transposed_and_split_tensors_are_views_on_both_sides(tmp_path: Path) -> None:
    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.stem(x).chunk(2, 1)
            x = torch.cat([left, self.right(right)], 1)
            return x.view(-1, 2, 4, *x.shape[2:]).transpose(1, 2).flatten(1, 2)

    network, image = Shuffled(), torch.rand(1, 3, 6, 6)
    counted = count(network, (image,))
    # In memory: the stem's whole output for its left half, the right half's new values, the concatenation.
    assert counted.activation_bytes == (8 + 4 + 8) * 36 * 4
    assert (
        count_file(to_onnx(network, image, tmp_path / "n.onnx").path).activation_bytes
        == counted.activation_bytes
    )
