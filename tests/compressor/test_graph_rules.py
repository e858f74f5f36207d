"""One small network for each rule: what is cut, what is left whole and why; and the cut is proven.

A rule may be too cautious, never wrong. So every network here is cut at random wherever its graph
allows, and compared in float64 with its silenced original.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.graph.channels import ChannelGraph
from tests.compressor.networks import Function, cut_at_random, proven, with_statistics

Conv = nn.Conv2d


def behind(function: Callable[[Tensor], Tensor], outputs: int = 8) -> nn.Module:
    """A convolution of eight channels, the function, a convolution that reads what it gives."""
    return Function(
        lambda self, x: self.head(function(self.stem(x))), stem=Conv(3, 8, 1), head=Conv(outputs, 5, 1)
    )


def around(*layers: nn.Module, outputs: int = 8) -> nn.Module:
    return nn.Sequential(Conv(3, 8, 1), *layers, Conv(outputs, 5, 1))


def traced(network: nn.Module, seed: int = 0) -> ChannelGraph:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.5)
    graph, _, _, checks = cut_at_random(with_statistics(network, seed), seed=seed)
    assert proven(checks), checks
    return graph


def reason(graph: ChannelGraph, name: str) -> str:
    return graph.group(name).frozen or ""


POINTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "an added number": lambda x: x + 1,
    "a product with itself": lambda x: x * x,
    "a power": lambda x: x.abs() ** 1.5,
    "a clamp": lambda x: x.clamp(-0.5, 0.5),
    "a choice": lambda x: torch.where(x > 0, x, 0.1 * x),
    "an exponential": torch.exp,
    "an elu in place": lambda x: F.elu(x * 1, inplace=True),
    "softplus": F.softplus,
    "mish": F.mish,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "dropout that is off": lambda x: F.dropout(x, 0.5, training=False),
    "a detour over another layout": lambda x: x.permute(0, 2, 3, 1).sigmoid().permute(0, 3, 1, 2),
    "a detour over a flat view": lambda x: x.flatten(2).tanh().unflatten(2, (8, 8)),
    "a softmax over space": lambda x: x.flatten(2).softmax(2).view(x.shape),
    "a mean over space": lambda x: x.mean((2, 3), keepdim=True),
    "the largest in space": lambda x: x.amax((2, 3), keepdim=True),
    "a pad in space": lambda x: F.pad(x, (1, 2, 0, 1)),
    "a crop in space": lambda x: x[:, :, 1:, ::2],
    "rows taken apart": lambda x: x.unbind(2)[1].unsqueeze(2),
    "a larger picture": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "a pool of largest": lambda x: F.max_pool2d(x, 2),
    "a pool to one": lambda x: F.adaptive_max_pool2d(x, 1),
    "a squeeze and its reverse": lambda x: (
        F.adaptive_avg_pool2d(x, 1).squeeze(3).squeeze(2)[:, :, None, None]
    ),
}


@pytest.mark.parametrize("function", POINTWISE.values(), ids=POINTWISE)
def test_channels_pass_through(function: Callable[[Tensor], Tensor]) -> None:
    graph = traced(behind(function))
    assert [(group.name, group.units) for group in graph.groups] == [("stem", 8)]
    assert graph.unsupported == ()


MIXING: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a softmax over channels": (lambda x: x.softmax(1), "`_softmax` runs over it"),
    "a mean over channels": (lambda x: x * x.mean(1, keepdim=True), "`mean` runs over it"),
    "a sum of everything": (lambda x: x * x.sum(), "`sum` runs over it"),
    "a layer norm": (lambda x: F.layer_norm(x, (8, 8, 8)), "a layer norm takes its statistics over it"),
    "half of the channels": (lambda x: torch.cat([x[:, :4], x[:, 4:]], 1), "`slice` takes a fixed part of it"),
    "chunks": (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), "`split` takes a fixed part of it"),
    "one channel": (lambda x: x * x[:, 3:4], "`slice` takes a fixed part of it"),
    "one channel by its number": (lambda x: x * x.select(1, 3)[:, None], "`select` takes a fixed part of it"),
    "channels moved by padding": (lambda x: F.pad(x, (0, 0, 0, 0, 1, -1)), "`constant_pad_nd` pads it"),
    "a fixed scale for each": (lambda x: x * torch.arange(8.0, device=x.device)[None, :, None, None], "fixed width"),
    "a split in two dimensions": (
        lambda x: x.view(-1, 2, 4, 8, 8).transpose(1, 2).flatten(1, 2),
        "a reshape splits it over two dimensions",
    ),
    "a norm over groups": (lambda x: F.group_norm(x, 2), "no rule for the operator `native_group_norm`"),
    "a product of two activations": (
        lambda x: (x.flatten(2) @ x.flatten(2).mT)[:, :, :1, None] * x,
        "no rule for the operator `bmm` in the network itself",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("function", "expected"), MIXING.values(), ids=MIXING)
def test_channels_that_depend_on_each_other_are_left_whole(
    function: Callable[[Tensor], Tensor], expected: str
) -> None:
    graph = traced(behind(function))
    assert graph.groups == ()
    assert expected in reason(graph, "stem")


UNKNOWN: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a flip": (lambda x: x.flip(1), "flip"),
    "a running sum": (lambda x: x.cumsum(1), "cumsum"),
    "a Fourier transform": (lambda x: torch.fft.fft2(x).real, "_fft_c2c"),
    "a roll": (lambda x: x.roll(1, 1), "roll"),
    "a sorted order": (lambda x: x.sort(1)[0], "sort"),
    "chosen channels": (lambda x: x[:, torch.tensor([7, 6, 5, 4, 3, 2, 1, 0])], "index"),
    "a shuffle": (lambda x: F.channel_shuffle(x, 2), "channel_shuffle"),
    "a stack": (lambda x: torch.stack([x, x]).sum(0), "stack"),
}


@pytest.mark.parametrize(("function", "operator"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_operator_without_a_rule_leaves_channels_whole_and_is_listed(
    function: Callable[[Tensor], Tensor], operator: str
) -> None:
    graph = traced(behind(function))
    assert graph.groups == ()
    assert operator in {item.operator for item in graph.unsupported}
    assert reason(graph, "stem") == f"no rule for the operator `{operator}` in the network itself"


def test_only_what_an_unknown_operator_touches_is_left_whole() -> None:
    graph = traced(around(nn.ReLU(), Conv(8, 6, 1), nn.PixelShuffle(1), Conv(6, 8, 1)))
    assert [group.name for group in graph.groups] == ["0", "4"]
    assert reason(graph, "2") == "no rule for the operator `pixel_shuffle` in `3`"


def test_depthwise_channels_go_with_those_they_read() -> None:
    graph = traced(around(Conv(8, 8, 3, groups=8), nn.BatchNorm2d(8)))
    (group,) = graph.groups
    assert [slot.tensor for slot in group.produces] == ["0.weight", "1.weight"]
    assert graph.block_convolutions == {"1.weight": 8}


def test_a_depthwise_multiplier_makes_units_of_several_channels() -> None:
    graph = traced(around(Conv(8, 24, 3, groups=8), nn.Hardswish(), outputs=24))
    (group,) = graph.groups
    (head,) = [slot for slot in group.slots if slot.tensor == "3.weight"]
    assert group.units == 8
    assert head.indices.tolist() == [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(8)]


def test_many_narrow_blocks_go_as_whole_blocks() -> None:
    graph = traced(around(Conv(8, 12, 3, groups=4), nn.Sigmoid(), outputs=12))
    (group,) = graph.groups
    assert group.units == 4
    assert group.channels_per_unit == 2
    assert graph.block_convolutions == {"1.weight": 4}


def test_few_wide_blocks_lose_the_same_position_each() -> None:
    graph = traced(around(Conv(8, 12, 3, groups=2), nn.Sigmoid(), outputs=12))
    read, written = graph.groups
    assert (read.units, written.units) == (4, 6)
    assert read.slots[0].indices.tolist() == [[i, i + 4] for i in range(4)]
    assert written.slots[0].indices.tolist() == [[i, i + 6] for i in range(6)]
    assert graph.block_convolutions == {}


@pytest.mark.parametrize("groups", [2, 8])
@pytest.mark.parametrize("bias", [True, False])
def test_grouped_transposed_convolutions_are_left_whole(groups: int, bias: bool) -> None:
    transposed = nn.ConvTranspose2d(8, 8, 2, groups=groups, bias=bias)
    graph = traced(around(transposed, nn.BatchNorm2d(8), Conv(8, 6, 1), outputs=6))
    assert [group.name for group in graph.groups] == ["3"]
    assert "grouped transposed convolution" in reason(graph, "0")


def test_a_grouped_first_layer_is_left_whole() -> None:
    graph = traced(nn.Sequential(Conv(3, 6, 1, groups=3), nn.ReLU(), Conv(6, 8, 1), Conv(8, 5, 1)))
    assert [group.name for group in graph.groups] == ["2"]
    assert reason(graph, "0") == "its grouped convolution reads a tensor of fixed width"


def test_concatenated_channels_keep_their_own_groups_at_their_own_places() -> None:
    network = Function(
        lambda self, x: self.head(torch.cat([self.one(x), x, self.two(x)], 1)),
        one=Conv(3, 4, 1),
        two=Conv(3, 6, 1),
        head=Conv(13, 5, 1),
    )
    graph = traced(network)
    places = {group.name: group.slots[-1].indices.ravel().tolist() for group in graph.groups}
    assert places == {"one": [0, 1, 2, 3], "two": [7, 8, 9, 10, 11, 12]}


def test_a_channel_that_is_concatenated_with_itself_is_one_unit() -> None:
    graph = traced(behind(lambda x: torch.cat([x, x.relu()], 1), outputs=16))
    (group,) = graph.groups
    assert group.slots[-1].indices.tolist() == [[i, i + 8] for i in range(8)]


def test_flattened_channels_take_all_their_positions_along() -> None:
    graph = traced(nn.Sequential(Conv(3, 4, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)))
    (group,) = graph.groups
    assert group.slots[-1].tensor == "3.weight"
    assert group.slots[-1].indices.tolist() == [[4 * i + j for j in range(4)] for i in range(4)]


def test_channels_last_then_flatten_takes_strided_positions() -> None:
    network = Function(
        lambda self, x: self.head(F.adaptive_avg_pool2d(self.stem(x), 2).permute(0, 2, 3, 1).flatten(1)),
        stem=Conv(3, 4, 1),
        head=nn.Linear(16, 5),
    )
    (group,) = traced(network).groups
    assert group.slots[-1].indices.tolist() == [[i + 4 * j for j in range(4)] for i in range(4)]


def test_a_prelu_has_a_slope_for_each_channel_or_one_for_all() -> None:
    graph = traced(around(nn.PReLU(8), Conv(8, 6, 1), nn.PReLU(), outputs=6))
    assert [group.name for group in graph.groups] == ["0", "2"]
    assert "1.weight" in {slot.tensor for slot in graph.groups[0].slots}


def test_a_bare_parameter_belongs_to_the_channels_it_scales() -> None:
    network = Function(
        lambda self, x: self.head(self.stem(x) * self.scale + self.shift),
        stem=Conv(3, 8, 1),
        scale=nn.Parameter(torch.ones(8, 1, 1)),
        shift=nn.Parameter(torch.ones(1, 8, 1, 1)),
        head=Conv(8, 5, 1),
    )
    (group,) = traced(network).groups
    assert {(slot.tensor, slot.axis) for slot in group.slots} >= {("scale", 0), ("shift", 1)}


def test_a_parameter_over_space_is_no_channel() -> None:
    network = Function(
        lambda self, x: self.head(self.stem(x) * self.map),
        stem=Conv(3, 8, 1),
        map=nn.Parameter(torch.ones(1, 1, 1, 8)),
        head=Conv(8, 5, 1),
    )
    (group,) = traced(network).groups
    assert "map" not in {slot.tensor for slot in group.slots}


def test_standardised_weights_are_cut_through_their_computation() -> None:
    network = Function(
        lambda self, x: self.head(
            F.conv2d(x, self.stem.weight - self.stem.weight.mean((1, 2, 3), keepdim=True))
        ),
        stem=Conv(3, 8, 1, bias=False),
        head=Conv(8, 5, 1),
    )
    assert [group.units for group in traced(network).groups] == [8]


def test_linear_layers_over_tokens_are_cut() -> None:
    network = Function(
        lambda self, x: self.head(F.gelu(self.stem(x.flatten(2)))).mean(1),
        stem=nn.Linear(64, 10),
        head=nn.Linear(10, 5),
    )
    assert [group.units for group in traced(network).groups] == [10]


def test_batch_norms_without_scale_or_statistics_are_cut() -> None:
    graph = traced(
        around(
            nn.BatchNorm2d(8, affine=False),
            Conv(8, 6, 1),
            nn.BatchNorm2d(6, track_running_stats=False),
            outputs=6,
        )
    )
    assert [group.units for group in graph.groups] == [8, 6]


def test_three_dimensional_convolutions_are_cut() -> None:
    network = nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 5, 1)
    )
    assert [group.units for group in traced(network).groups] == [8]


@pytest.mark.parametrize("recurrent", [nn.LSTM, nn.GRU])
def test_recurrent_layers_and_what_they_read_are_left_whole(recurrent: type[nn.RNNBase]) -> None:
    network = Function(
        lambda self, x: self.head(self.memory(self.body(self.stem(x)).flatten(2).mT)[0]),
        stem=Conv(3, 6, 1),
        body=Conv(6, 8, 1),
        memory=recurrent(8, 6, batch_first=True),
        head=nn.Linear(6, 5),
    )
    graph = traced(network)
    assert [group.name for group in graph.groups] == ["stem"]
    assert reason(graph, "body") == f"`{recurrent.__name__}` keeps its sizes to itself"


def test_attention_keeps_its_width_and_its_neighbours_are_cut() -> None:
    network = Function(
        lambda self, x: self.head(self.look(*[self.body(self.stem(x)).flatten(2).mT] * 3)[0]),
        stem=Conv(3, 6, 1),
        body=Conv(6, 8, 1),
        look=nn.MultiheadAttention(8, 2, batch_first=True),
        head=nn.Linear(8, 5),
    )
    graph = traced(network)
    assert "stem" in [group.name for group in graph.groups]
    assert reason(graph, "body") == "`MultiheadAttention` keeps its sizes to itself"


def test_the_inputs_and_the_outputs_of_a_network_are_never_cut() -> None:
    graph = traced(around(nn.ReLU()))
    assert {(slot.tensor, slot.axis) for group in graph.groups for slot in group.slots} == {
        ("0.weight", 0),
        ("0.bias", 0),
        ("2.weight", 1),
    }
    assert reason(graph, "2") == "the network's output"


def test_a_feature_map_that_is_also_returned_stays_whole() -> None:
    network = Function(
        lambda self, x: (self.stem(x), self.head(self.stem(x))), stem=Conv(3, 8, 1), head=Conv(8, 5, 1)
    )
    graph = traced(network)
    assert graph.groups == ()
    assert reason(graph, "stem") == "the network's output"
