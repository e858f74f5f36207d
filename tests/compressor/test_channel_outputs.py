"""Gates behind whatever makes channels: the derivative they stand for, in networks that make it hard."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.data.split import Batch
from compressor.pruning.graph.labelled import walk
from compressor.pruning.graph.recording.example import inputs_of
from compressor.pruning.graph.trace import trace
from compressor.pruning.scoring.channel_outputs import InPlace, made_by, shown_by
from compressor.pruning.scoring.measurements import Measuring, cross_entropy
from tests.compressor.networks import images, networks

CPU = torch.device("cpu")


def batch_of(pixels: Tensor, classes: int = 4) -> Batch:
    labels = torch.arange(len(pixels)) % classes
    return Batch(pixels, labels, labels)


def gates_of(network: nn.Module, pixels: Tensor) -> dict[tuple[str, int], Tensor]:
    """Mean gate of every channel, by the axis that it comes from."""

    def loss(answer: object, batch: Batch) -> Tensor:
        answers = [answer] if isinstance(answer, Tensor) else list(answer)  # type: ignore[call-overload]
        return sum(each.square().flatten(1).sum(1).mean() for each in answers)

    measuring = Measuring(network, trace(network, pixels[:1]), ("gate",), loss, CPU)
    (measured,) = measuring.over([batch_of(pixels)])
    return {key: values["gate"] for key, values in measured.by_axis.items() if "gate" in values}


def rows_times_gradients(network: nn.Module, pixels: Tensor) -> dict[tuple[str, int], Tensor]:
    """The same from the weights: a layer without a bias is linear in its weights, so the two sums are one."""
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    answer = network(pixels)
    answers = [answer] if isinstance(answer, Tensor) else list(answer)
    sum(each.square().flatten(1).sum(1).mean() for each in answers).backward()
    found = {}
    for name, parameter in network.named_parameters():
        product = parameter.detach() * (0 if parameter.grad is None else parameter.grad)
        for axis in (0, 1) if parameter.dim() > 1 else ():
            found[name, axis] = product.sum([dim for dim in range(product.dim()) if dim != axis])
            bias = dict(network.named_parameters()).get(name.removesuffix("weight") + "bias")
            if bias is not None and name.endswith("weight") and bias.shape == found[name, axis].shape:
                found[name, axis] += bias.detach() * (0 if bias.grad is None else bias.grad)
    return found


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(network=networks())
def test_a_gate_is_the_sum_of_weights_times_gradients_of_its_layer(network: nn.Module) -> None:
    network = network.double().eval()
    pixels = images(3).double()
    gates = gates_of(network, pixels)
    expected = rows_times_gradients(network, pixels)
    assert gates
    largest = max(float(each.abs().max()) for each in expected.values())
    for key, found in gates.items():
        if "parametrizations" not in key[0]:  # there the weight itself is made of others
            # float64; where a sum all but cancels (keys of an attention) what is left is rounding of larger numbers.
            scale = expected[key].abs().max().clamp_min(1e-6 * largest)
            torch.testing.assert_close(found / scale, expected[key] / scale, rtol=0, atol=1e-9)


class Hard(nn.Module):
    """Ways in which a tensor that a gate has seen could change behind its back."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.other = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.head, self.way = nn.Linear(8, 4), way

    def forward(self, x: Tensor) -> Tensor:
        return self.head(getattr(self, self.way)(self.conv(x)).mean((2, 3)))

    def in_place(self, x: Tensor) -> Tensor:
        x = F.relu(x, inplace=True)
        y = self.other(x)
        y += x
        return y

    def parts_in_place(self, x: Tensor) -> Tensor:
        x[:, :4].mul_(2)
        return self.other(x)

    def seen_before(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        x.relu_()
        return self.other(x) + flat.mean(2)[..., None, None]

    def shared(self, x: Tensor) -> Tensor:
        return self.other(self.other(x)).relu()


WAYS = {"in_place": False, "parts_in_place": True, "seen_before": True, "shared": False}
"""Each, and whether somebody writes into what somebody else looks at."""


@pytest.mark.parametrize("way", WAYS)
def test_what_a_gate_has_seen_does_not_change(way: str) -> None:
    network = Hard(way).double().eval()
    pixels = images(4).double()
    gates = gates_of(network, pixels)
    expected = rows_times_gradients(network, pixels)
    assert len(gates) >= 2
    for key, found in gates.items():
        torch.testing.assert_close(found, expected[key], rtol=1e-9, atol=1e-12)


def test_a_copy_is_handed_on_only_where_somebody_writes_into_a_view() -> None:
    found = {way: InPlace.of(walk(Hard(way), inputs_of(images(1)))).others for way in WAYS}
    assert found == WAYS


def test_gates_stand_behind_what_makes_channels_and_maps_are_taken_behind_the_activation() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 5)
    )
    walked = walk(network.eval(), inputs_of(images(1)))
    made = made_by(walked, {("0.weight", 0), ("3.weight", 0)})
    names = [operation.operator for operation in walked.recording.operations]
    assert {names[number]: (each.key, each.dim) for number, each in list(made.items())[:1]} == {
        "convolution": (("0.weight", 0), 1)
    }
    shown = shown_by(walked, made)
    assert [names[number] for number in shown] == ["relu", "convolution"]


def test_images_that_do_not_come_first_are_left_out() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(3, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            rows = x.flatten(2).permute(2, 0, 1)  # positions, images, channels
            return self.head(self.first(rows).relu().mean(0))

    pixels = images(3)[:, :, :5, :5]
    graph = trace(Turned(), pixels[:1])
    (measured,) = Measuring(Turned(), graph, ("gate",), cross_entropy, CPU).over([batch_of(pixels)])
    assert not any("gate" in values for values in measured.by_axis.values())
