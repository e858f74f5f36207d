"""Twice as wide: every group of the channel graph, whatever ties its layers, and fresh weights."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from compressor.errors import CompressError
from compressor.models.glyphnet import GlyphNet
from compressor.pruning.cutting.widen import twice_as_wide
from compressor.pruning.graph.trace import trace
from tests.compressor.methods.test_joint_lesson import Branched


class Fixed(nn.Module):
    """A class that knows its width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).mean((2, 3)).view(-1, 4))


NETWORKS = {
    "residual": (lambda: GlyphNet(4, widths=(4, 8, 12)), torch.zeros(1, 3, 16, 16)),
    "depthwise and concatenated": (Branched, torch.zeros(1, 1, 5, 5)),
    "inverted residual": (lambda: torchvision.models.mobilenet_v2(num_classes=3), torch.zeros(1, 3, 32, 32)),
    "flattened": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(27, 5), nn.Linear(5, 2)
        ),
        torch.zeros(1, 1, 5, 5),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_group_has_twice_the_channels_and_answers_stay(name: str) -> None:
    build, image = NETWORKS[name]
    network = build().eval()
    graph = trace(network, image)
    wide = twice_as_wide(network, graph, image)
    assert [g.units for g in trace(wide, image).groups] == [2 * g.units for g in graph.groups]
    assert wide(image).shape == network(image).shape
    assert type(wide) is type(network)


def test_weights_are_new_and_follow_the_seed() -> None:
    build, image = NETWORKS["residual"]
    network = build().eval()
    network.stem[1].running_mean.fill_(3)
    graph = trace(network, image)
    one, same, other = (twice_as_wide(network, graph, image, seed) for seed in (1, 1, 2))
    assert torch.equal(one.stem[0].weight, same.stem[0].weight)
    assert not torch.equal(one.stem[0].weight, other.stem[0].weight)
    assert not torch.equal(one.stem[0].weight[0], one.stem[0].weight[1])  # no channel is there twice
    assert (one.stem[1].running_mean == 0).all()


def test_a_class_that_knows_its_width_is_refused_in_one_line() -> None:
    image = torch.zeros(1, 1, 5, 5)
    network = Fixed().eval()
    with pytest.raises(CompressError, match="class cannot be made twice as wide") as caught:
        twice_as_wide(network, trace(network, image), image)
    assert "distil.layerwise.auxiliary" in str(caught.value.hint)
