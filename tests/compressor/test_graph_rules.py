"""One small network for each rule: what is cut, what is left whole and why; and the cut is proven.

A rule may be too cautious, never wrong. So every network here is cut at random wherever its graph allows, and compared
in float64 with its silenced original. The last test holds the table to it: a rule that no network runs is listed with
the reason, or it is not in the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision.ops
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.graph.recording.example import inputs_of
from compressor.pruning.graph.recording.record import record
from compressor.pruning.graph.rules.table import RULES
from tests.compressor.networks import Function, cut_at_random, images, proven, with_statistics

Conv = nn.Conv2d
aten = torch.ops.aten
Body = Callable[[Tensor], Tensor]


def behind(function: Body, outputs: int | None = None) -> nn.Module:
    """A convolution of eight channels, the function, and a layer that reads what it gives."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = function(torch.randn(2, 8, 8, 8))
        if found.dim() == 4:
            head: nn.Module = Conv(outputs or found.shape[1], 5, 1)
        elif found.dim() == 3:
            head = nn.Conv1d(found.shape[1], 5, 1)
        else:
            head = nn.Linear(found.shape[-1], 5)
    return Function(lambda self, x: self.head(function(self.stem(x))), stem=Conv(3, 8, 1), head=head)


def around(*layers: nn.Module, outputs: int = 8) -> nn.Module:
    return nn.Sequential(Conv(3, 8, 1), *layers, Conv(outputs, 5, 1))


def settled(network: nn.Module, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.5)
    return with_statistics(network, seed)


def traced(network: nn.Module, inputs: Tensor | None = None) -> ChannelGraph:
    """The graph, after the network was cut at random a few times, each proven."""
    settled(network)
    for seed in range(3):
        graph, _, _, checks = cut_at_random(network, inputs, seed=seed)
        assert all(check.passed for check in checks), checks
    assert proven(checks)
    return graph


def units(graph: ChannelGraph) -> dict[str, int]:
    return {group.name: group.units for group in graph.groups}


def reason(graph: ChannelGraph, name: str) -> str:
    return graph.group(name).frozen or ""


# --- Operators that work index by index.

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    **{
        name: getattr(torch, name)
        for name in """abs sgn sign sqrt rsqrt reciprocal square sin cos tan tanh asin acos atan sinh cosh erf erfinv
        floor ceil round trunc frac exp exp2 expm1 log log1p log2 log10 neg logit sinc positive isnan isinf
        nan_to_num logical_not relu sigmoid zeros_like ones_like erfc lgamma digamma i0 signbit asinh atanh
        deg2rad rad2deg angle""".split()
    },
    **{
        name: getattr(F, name)
        for name in """relu6 hardtanh hardsigmoid silu hardswish gelu elu selu celu leaky_relu softplus mish
        hardshrink softshrink logsigmoid tanhshrink softsign""".split()
    },
    "acosh": lambda x: torch.acosh(x + 1),
    "rrelu": lambda x: F.rrelu(x - 0.5, 0.1, 0.3),
    "threshold": lambda x: F.threshold(x, 0.3, 0.1),
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "elu in place": lambda x: F.elu(x * 1, inplace=True),
    "full_like": lambda x: torch.full_like(x, 0.5),
    "empty_like": lambda x: torch.empty_like(x).fill_(0.5),
    "fill in place": lambda x: (x * 1).fill_(0.3),
    "fill": lambda x: aten.fill(x, 0.3),
    "zero in place": lambda x: (x * 1).zero_(),
    "zero": lambda x: aten.zero(x),
    "copy in place": lambda x: torch.zeros_like(x).copy_(x.sin()),
    "copy": lambda x: aten.copy(x, x.sin()),
    "clamp": lambda x: x.clamp(0.3, 0.6),
    "clamp_min": lambda x: x.clamp_min(0.3),
    "clamp_max": lambda x: x.clamp_max(0.3),
    "bitwise_not": lambda x: torch.bitwise_not(x > 0.5),
    "dropout that is off": lambda x: F.dropout(x, 0.5, training=False),
    "dropout1d that is off": lambda x: F.dropout1d(x.flatten(2), 0.5, training=False).view_as(x),
    "dropout2d that is off": lambda x: F.dropout2d(x, 0.5, training=False),
    "dropout3d that is off": lambda x: F.dropout3d(x[:, :, None], 0.5, training=False)[:, :, 0],
    "alpha_dropout that is off": lambda x: F.alpha_dropout(x, 0.5, training=False),
    "feature_alpha_dropout that is off": lambda x: F.feature_alpha_dropout(x, 0.5, training=False),
    "drop_path that is off": lambda x: torchvision.ops.stochastic_depth(x, 0.5, "row", training=False),
    "an added number": lambda x: x + 1,
    "a number minus it": lambda x: 2 - x,
    "a power": lambda x: x**1.5,
    "another precision": lambda x: x.double().float(),
    "a copy": lambda x: x.clone(),
    "a detached copy": lambda x: x.detach(),
    "an alias": lambda x: aten.alias(x),
    "a layout": lambda x: x.contiguous(memory_format=torch.channels_last),
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logaddexp": torch.logaddexp,
    "logaddexp2": torch.logaddexp2,
    "fmin": torch.fmin,
    "polar": lambda x, y: torch.view_as_real(torch.polar(x, y)).sum(-1),
    "hypot": torch.hypot,
    "copysign": torch.copysign,
    "xlogy": torch.xlogy,
    "fmax": torch.fmax,
    **{
        name: getattr(torch, name)
        for name in """add sub rsub mul div pow maximum minimum max min fmod remainder atan2 floor_divide heaviside
        gt ge lt le eq ne logical_and logical_or logical_xor""".split()
    },
    "bitwise_and": lambda x, y: (x > 0.5) & (y > 0.4),
    "bitwise_or": lambda x, y: (x > 0.5) | (y > 0.4),
    "where": lambda x, y: torch.where(x > y, x, 0.1 * y),
    "masked_fill": lambda x, y: x.masked_fill(x > y, 0.25),
    "addcmul": lambda x, y: torch.addcmul(x, y, y),
    "addcdiv": lambda x, y: torch.addcdiv(x, y, y + 1),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "a clamp by tensors": lambda x, y: x.clamp(y - 0.1, y + 0.1),
}


@pytest.mark.parametrize("function", UNARY.values(), ids=UNARY)
def test_channels_pass_through_what_works_index_by_index(function: Callable[[Tensor], Tensor]) -> None:
    graph = traced(behind(unary(function)))
    assert units(graph) == {"stem": 8}
    assert graph.unsupported == ()


def unary(function: Callable[[Tensor], Tensor]) -> Body:
    # Between 0.1 and 0.9 everything is defined; beside a multiple of itself no result is zero everywhere.
    return lambda x: (lambda y: function(y).to(y.dtype) + 0.1 * y)(x.sigmoid() * 0.8 + 0.1)


@pytest.mark.parametrize("function", BINARY.values(), ids=BINARY)
def test_two_tensors_that_meet_index_by_index_are_one_group(
    function: Callable[[Tensor, Tensor], Tensor],
) -> None:
    graph = traced(meeting(function))
    assert units(graph) == {"one": 8}
    assert {slot.tensor for slot in graph.group("one").produces} == {"one.weight", "two.weight"}


def meeting(function: Callable[[Tensor, Tensor], Tensor]) -> nn.Module:
    def forward(self: Any, x: Tensor) -> Tensor:
        one, two = (layer(x).sigmoid() * 0.8 + 0.1 for layer in (self.one, self.two))
        return self.head(function(one, two).to(x.dtype) + 0.1 * one)

    return Function(forward, one=Conv(3, 8, 1), two=Conv(3, 8, 1), head=Conv(8, 5, 1))


# --- Operators that move channels, run over space or over channels. The number is the units that are left to cut.


def put_rows(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, [1, 4]] = x[:, :, [2, 5]].relu()
    return x


def put_channels(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, [1, 4]] = x[:, [2, 5]].relu()
    return x


MOVING: dict[str, tuple[Body, int]] = {
    "a transform of space": (lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 0.5, x.shape[2:]), 8),
    "a transform of channels": (lambda x: torch.fft.fft(x, dim=1).real, 0),
    "a turn in space": (lambda x: torch.rot90(x, 1, (2, 3)), 8),
    "a turn of channels": (lambda x: torch.rot90(x, 2, (1, 3)), 0),
    "rows gathered": (lambda x: x.gather(2, torch.zeros_like(x, dtype=torch.long)), 8),
    "channels gathered": (lambda x: x.gather(1, torch.zeros_like(x, dtype=torch.long)), 0),
    "some channels gathered in rows": (
        lambda x: F.pad(x.gather(2, torch.zeros(len(x), 4, 8, 8).long()), (0, 0, 0, 0, 0, 4)),
        0,
    ),
    "columns added up": (lambda x: torch.zeros_like(x).scatter_add(3, torch.ones_like(x, dtype=torch.long), x), 8),
    "rows added by index": (lambda x: x.index_add(2, torch.tensor([1, 3]), x[:, :, :2]), 8),
    "rows put by index": (put_rows, 8),
    "channels put by index": (put_channels, 0),
    "a running maximum in space": (lambda x: x.cummax(3).values, 8),
    "a running minimum and a sum of exponentials": (lambda x: x.cummin(2).values + x.logcumsumexp(3), 8),
    "a median of what is a number": (lambda x: x - x.nanmedian(3, keepdim=True).values, 8),
    "a whole transform": (lambda x: torch.fft.ifft2(torch.fft.fft2(x)).real, 8),
    "a running maximum of channels": (lambda x: x.cummax(1).values, 0),
    "distances between channels": (
        lambda x: x * torch.cdist(x.flatten(2), x.flatten(2)).mean((1, 2))[:, None, None, None],
        8,
    ),
    "distances between positions": (lambda x: x * torch.cdist(x.flatten(2).mT, x.flatten(2).mT).mean(), 0),
    "complex numbers": (lambda x: torch.view_as_real(torch.complex(x, x.relu())).sum(-1), 8),
    "pairs of columns as complex numbers": (
        lambda x: torch.view_as_complex(x.unflatten(3, (4, 2)).contiguous()).abs().repeat_interleave(2, 3), 8),
    "a detour over another layout": (lambda x: x.permute(0, 2, 3, 1).sigmoid().permute(0, 3, 1, 2), 8),
    "a detour over a flat view": (lambda x: x.flatten(2).tanh().unflatten(2, (8, 8)), 8),
    "a detour over a transposed matrix": (lambda x: x.flatten(1).t().t().view(x.shape), 8),
    "moved dimensions": (lambda x: x.movedim(1, -1).swapaxes(1, 3).transpose(1, 3).movedim(-1, 1), 8),
    "an unsafe view": (lambda x: aten._unsafe_view(x, [x.shape[0], 8, 64]).sin(), 8),
    "an alias of another shape": (lambda x: aten._reshape_alias(x, [x.shape[0], 8, 64], [512, 64, 1]).sin(), 8),
    "a squeeze and its reverse": (lambda x: x.mean((2, 3), True).squeeze(3).squeeze(2)[:, :, None, None], 8),
    "all ones squeezed": (lambda x: x.mean((2, 3), True).squeeze(), 8),
    "a wider picture": (lambda x: x.mean((2, 3), True).expand(-1, -1, 8, 8), 8),
    "copies in space": (lambda x: x.repeat(1, 1, 2, 1), 8),
    "copies of channels": (lambda x: x.repeat(1, 2, 1, 1), 8),
    "each channel twice": (lambda x: x.repeat_interleave(2, 1), 8),
    "a crop in space": (lambda x: x[:, :, 1:, ::2], 8),
    "half of the channels beside the rest": (lambda x: torch.cat([x[:, :4], x[:, 4:]], 1), 8),
    # What nobody reads may go as well.
    "half of the channels": (lambda x: x[:, :4], 8),
    "every second channel": (lambda x: x[:, 1::2].sin(), 8),
    "a split that torch does not watch": (lambda x: torch.cat(torch.unsafe_split(x, 3, 1)[::-1], 1), 8),
    "chunks in another order": (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), 8),
    "parts of unequal sizes": (lambda x: torch.cat(x.split([2, 5, 1], 1)[:2], 1), 7),
    "halves that are multiplied": (lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1], 4),
    "a gate of halves": (lambda x: F.glu(x, 1), 4),
    "one channel by its number": (lambda x: x * x.select(1, 3)[:, None], 7),
    "one channel by a slice": (lambda x: x * x[:, 3:4], 7),
    "channels taken apart": (lambda x: torch.stack(x.unbind(1)[:4], 1), 0),
    "rows taken apart": (lambda x: x.unbind(2)[1].unsqueeze(2), 8),
    "a stack": (lambda x: torch.stack([x, x.sin()]).sum(0), 8),
    "a stack of channels": (lambda x: torch.stack([x, x.sin()], 2).flatten(2), 8),
    "a flip": (lambda x: x.flip(1), 8),
    "a flip that meets itself": (lambda x: x + x.flip(1), 4),
    "a roll": (lambda x: x.roll(3, 1), 8),
    "a roll that meets itself": (lambda x: x * x.roll(4, 1), 4),
    "a roll in space": (lambda x: x.roll((1, -2), (2, 3)), 8),
    "a roll of everything": (lambda x: x.roll(3), 0),
    "a pad in space": (lambda x: F.pad(x, (1, 2, 0, 1)), 8),
    "a pad of channels": (lambda x: F.pad(x, (0, 0, 0, 0, 2, 3)), 8),
    "a pad that takes channels away": (lambda x: F.pad(x, (0, 0, 0, 0, 1, -1)), 0),
    "a shuffle": (lambda x: F.channel_shuffle(x, 2), 4),
    "a native shuffle": (lambda x: torch.native_channel_shuffle(x, 4), 8),
    "a shuffle written out": (lambda x: x.view(-1, 2, 4, 8, 8).transpose(1, 2).flatten(1, 2), 8),
    "a split in two dimensions": (lambda x: x.view(-1, 2, 4, 8, 8).sin().flatten(1, 2), 4),
    "a split of which one part is read": (lambda x: x.view(-1, 2, 4, 8, 8)[:, 0], 4),
    "a pixel shuffle": (lambda x: F.pixel_shuffle(x, 2), 2),
    "a pixel unshuffle": (lambda x: F.pixel_unshuffle(x, 2), 8),
    "windows": (lambda x: F.unfold(x, 3), 8),
    "windows and back": (lambda x: F.fold(F.unfold(x, 2, stride=2).sin(), (8, 8), 2, stride=2), 8),
    "windows along a dimension": (lambda x: x.unfold(2, 4, 2).amax(4), 8),
    "a triangle": (lambda x: torch.tril(x) + torch.triu(x, 1) ** 2, 8),
    "a triangle over channels": (lambda x: torch.tril(x.transpose(1, 3)).transpose(1, 3), 0),
    "chosen channels": (lambda x: x[:, torch.tensor([7, 6, 5, 4, 3, 2, 1, 0])], 8),
    "channels chosen by a list": (lambda x: x[:, [1, 3, 5]], 8),
    "channels chosen twice": (lambda x: x[:, [1, 3, 1, 5]], 7),
    "chosen rows": (lambda x: x[:, :, [1, 3, 5]], 8),
    "chosen places": (lambda x: x[:, :, [1, 3, 5], [0, 1, 2]], 8),
    "selected rows": (lambda x: x.index_select(2, torch.tensor([1, 3, 5])), 8),
    "selected channels": (lambda x: x.index_select(1, torch.tensor([1, 3, 5])), 8),
    # Statistics and what else runs over a dimension.
    "a mean over space": (lambda x: x.mean((2, 3), keepdim=True), 8),
    "a mean over channels": (lambda x: x * x.mean(1, keepdim=True), 8),
    "a mean over channels alone": (lambda x: torch.cat([x.mean(1, keepdim=True), x], 1), 8),
    "a sum of everything": (lambda x: x * x.sum(), 8),
    "a product over rows": (lambda x: x.tanh().prod(3), 8),
    "the largest in space": (lambda x: x.amax((2, 3), keepdim=True) - x.amin((2, 3), keepdim=True), 8),
    "the largest of channels": (lambda x: x * x.amax(1, keepdim=True), 8),
    "a spread": (lambda x: x / x.std((2, 3), keepdim=True) + x.var((2, 3), keepdim=True), 8),
    "a spread with its mean": (lambda x: torch.var_mean(x, 3)[0] + torch.std_mean(x, 3)[1], 8),
    "a spread over channels": (lambda x: x / x.std(1, keepdim=True), 8),
    "a length": (lambda x: x / torch.linalg.vector_norm(x, dim=1, keepdim=True), 8),
    "a length of the old kind": (lambda x: x / aten.norm.ScalarOpt_dim(x, 2, [1], True), 8),
    "a length of everything": (lambda x: x / x.norm(), 8),
    "a log of sums": (lambda x: x - x.logsumexp((2, 3), keepdim=True), 8),
    "a softmax over channels": (lambda x: x.softmax(1), 8),
    "a log softmax over channels": (lambda x: x.log_softmax(1), 8),
    "a softmax over space": (lambda x: x.flatten(2).softmax(2).view(x.shape), 8),
    "the largest with its place": (lambda x: x.max(3)[0] + x.min(3)[0], 8),
    "the largest channel with its place": (lambda x: x * x.max(1, keepdim=True)[0], 0),
    "the largest of all": (lambda x: x * x.max() - x.min(), 0),
    "a running sum over space": (lambda x: x.cumsum(2), 8),
    "a running sum over channels": (lambda x: x.cumsum(1), 0),
    "a running product": (lambda x: x.tanh().cumprod(3), 8),
    "a sorted order in space": (lambda x: x.sort(3)[0], 8),
    "a sorted order of channels": (lambda x: x.sort(1)[0], 0),
    "the best two in space": (lambda x: x.topk(2, dim=3)[0], 8),
    "the best two channels": (lambda x: x.topk(2, 1)[0], 0),
    "places in order": (lambda x: x + x.argsort(3).to(x.dtype), 8),
    "the place of the largest": (lambda x: x + (x.argmax(3) - x.argmin(3)).to(x.dtype)[..., None], 8),
    "the second": (lambda x: x.kthvalue(2, 3)[0], 8),
    "the middle": (lambda x: x.median(3)[0], 8),
    # Pooling, resizing, padding in space.
    "a pool of largest": (lambda x: F.max_pool2d(x, 2), 8),
    "a pool of means": (lambda x: F.avg_pool2d(x, 2), 8),
    "a pool to a size": (lambda x: F.adaptive_avg_pool2d(x, 3), 8),
    "a pool to one": (lambda x: F.adaptive_avg_pool2d(x, 1), 8),
    "a pool of largest to one": (lambda x: F.adaptive_max_pool2d(x, 1), 8),
    "a pool along lines": (lambda x: F.avg_pool1d(x.flatten(2), 2), 8),
    "a pool of largest along lines": (lambda x: F.max_pool1d(x.flatten(2), 2), 8),
    "a pool to a size along lines": (lambda x: F.adaptive_avg_pool1d(x.flatten(2), 4), 8),
    "a pool of largest to a size along lines": (lambda x: F.adaptive_max_pool1d(x.flatten(2), 4), 8),
    "a pool of a volume": (lambda x: F.avg_pool3d(volume(x), 2)[:, :, 0], 8),
    "a pool of largest of a volume": (lambda x: F.max_pool3d(volume(x), 2)[:, :, 0], 8),
    "a pool of a volume to a size": (lambda x: F.adaptive_avg_pool3d(volume(x), 2)[:, :, 0], 8),
    "a pool of a volume to one": (lambda x: F.adaptive_avg_pool3d(volume(x), 1)[:, :, 0], 8),
    "a pool of largest of a volume to a size": (lambda x: F.adaptive_max_pool3d(volume(x), 2)[:, :, 0], 8),
    "a larger picture": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), 8),
    "a larger picture by nearest": (lambda x: F.interpolate(x, size=(10, 9)), 8),
    "a larger picture by nearest exactly": (lambda x: F.interpolate(x, size=(10, 9), mode="nearest-exact"), 8),
    "a larger picture by cubes": (lambda x: F.interpolate(x, size=(10, 9), mode="bicubic"), 8),
    "a smoothed smaller picture": (
        lambda x: F.interpolate(x, size=(5, 5), mode="bilinear", antialias=True)
        + F.interpolate(x, size=(5, 5), mode="bicubic", antialias=True),
        8,
    ),
    "a longer line": (lambda x: F.interpolate(x.flatten(2), 70), 8),
    "a longer line by lines": (lambda x: F.interpolate(x.flatten(2), 70, mode="linear"), 8),
    "a larger volume": (lambda x: F.interpolate(volume(x), scale_factor=2)[:, :, 0], 8),
    "a larger volume by lines": (
        lambda x: F.interpolate(volume(x), scale_factor=2, mode="trilinear")[:, :, 0], 8
    ),
    "a mirrored border": (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), 8),
    "a repeated border": (lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"), 8),
    "a mirrored border of a line": (lambda x: F.pad(x.flatten(2), (1, 1), mode="reflect"), 8),
    "a repeated border of a line": (lambda x: F.pad(x.flatten(2), (1, 1), mode="replicate"), 8),
    "a mirrored border of a volume": (lambda x: F.pad(volume(x), (1,) * 6, mode="reflect")[:, :, 0], 8),
    "a repeated border of a volume": (lambda x: F.pad(volume(x), (1,) * 6, mode="replicate")[:, :, 0], 8),
    "a border from the other side": (lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"), 8),
    "a sampled picture": (lambda x: F.grid_sample(x, grid(x.shape[0]), align_corners=False), 8),
    "a sampled volume": (
        lambda x: F.grid_sample(
            volume(x), grid(x.shape[0])[:, None].sin().repeat(1, 2, 1, 1, 2)[..., :3], align_corners=False
        )[:, :, 0],
        8,
    ),
    "boxes": (lambda x: torchvision.ops.roi_align(x, boxes().to(x), 2), 8),
    "boxes by largest": (lambda x: torchvision.ops.roi_pool(x, boxes().to(x), 2), 8),
    # Norms without weights.
    "a layer norm over everything": (lambda x: F.layer_norm(x, tuple(x.shape[1:])), 8),
    "an instance norm": (F.instance_norm, 8),
    "a norm below torch's own": (lambda x: aten.native_batch_norm(x, None, None, None, None, True, 0.1, 1e-5)[0], 8),
    "a norm below torch's own without statistics": (
        lambda x: aten._native_batch_norm_legit.no_stats(x, None, None, True, 0.1, 1e-5)[0], 8
    ),
    "a norm over two groups": (lambda x: F.group_norm(x, 2), 4),
    "a norm over one group": (lambda x: F.group_norm(x, 1), 8),
    "a norm over many groups without weights": (lambda x: F.group_norm(x, 4), 0),
    "a norm over neighbours": (lambda x: F.local_response_norm(x, 3), 0),
    # New tensors.
    "ones of its shape": (lambda x: x + x.new_ones(x.shape) * 0.5 + torch.ones(x.shape, device=x.device), 8),
    "zeros in front": (lambda x: torch.cat([x.new_zeros(x.shape), x], 1), 8),
    "a full tensor": (lambda x: x + x.new_full(x.shape, 0.5) + torch.full(x.shape, 0.25, device=x.device), 8),
    "an empty tensor": (
        lambda x: x + x.new_empty(x.shape).fill_(0.5) + torch.empty(x.shape, device=x.device).zero_(), 8
    ),
    "zeros of its shape": (lambda x: x.exp() + torch.zeros(x.shape, device=x.device), 8),
    "a number as a tensor": (lambda x: x * torch.scalar_tensor(0.5, device=x.device), 8),
    "a number given as a tensor": (lambda x: x * torch.tensor(0.5, device=x.device), 8),
    "a ramp over space": (lambda x: x * torch.arange(8.0, device=x.device), 8),
    "a ramp over channels": (lambda x: x * torch.arange(8.0, device=x.device)[None, :, None, None], 0),
    "a line over space": (lambda x: x * torch.linspace(0, 1, 8, device=x.device), 8),
    "an eye over space": (lambda x: x * torch.eye(8, device=x.device), 8),
    # Products of activations.
    "a product over space": (lambda x: (x @ x.mT).sin(), 8),
    "a Gram matrix": (lambda x: (x.flatten(2) @ x.flatten(2).mT) @ x.flatten(2), 8),
    "a product of batches": (lambda x: torch.bmm(x.flatten(2), x.flatten(2).mT) @ x.flatten(2), 8),
    "a product of batches that is added": (
        lambda x: torch.baddbmm(x.flatten(2), x.flatten(2), x.flatten(2)[:, :, :64].mT @ x.flatten(2)), 8
    ),
    "an einsum over channels": (lambda x: torch.einsum("bchw,bcij->bhwij", x, x).flatten(1, 2), 8),
    "an einsum over space": (lambda x: torch.einsum("bchw,bdhw->bcd", x, x).sin().sum(1), 8),
    "attention over positions": (
        lambda x: F.scaled_dot_product_attention(*[x.flatten(2).mT] * 3, scale=0.3).mT, 8
    ),
    "attention over channels": (
        lambda x: F.scaled_dot_product_attention(*[x.flatten(2)] * 3, scale=0.3), 8
    ),
}  # fmt: skip


def volume(x: Tensor) -> Tensor:
    return x.unsqueeze(2).repeat(1, 1, 2, 1, 1) if x.dim() == 4 else x


def grid(samples: int) -> Tensor:
    return (
        torch.linspace(-1, 1, 18, dtype=torch.get_default_dtype()).view(1, 3, 3, 2).repeat(samples, 1, 1, 1)
    )


def boxes() -> Tensor:
    return torch.tensor([[0.0, 1.0, 1.0, 6.0, 6.0], [0.0, 0.0, 0.0, 4.0, 7.0]])


@pytest.mark.parametrize(("function", "expected"), MOVING.values(), ids=MOVING)
def test_channels_are_followed_as_far_as_they_go(function: Body, expected: int) -> None:
    graph = traced(behind(function))
    assert sum(units(graph).values()) == expected
    assert graph.unsupported == ()
    assert expected or reason(graph, "stem")


REASONS: dict[str, tuple[Body, str]] = {
    "a norm over many groups": (lambda x: F.group_norm(x, 4), "a group norm without weights splits it"),
    "a norm over neighbours": (lambda x: F.local_response_norm(x, 3), "reads its neighbours"),
    "a running sum": (lambda x: x.cumsum(1), "`cumsum` runs along it"),
    "channels taken apart": (lambda x: torch.stack(x.unbind(1), 1), "its indices are taken apart"),
    "the place of the largest": (lambda x: x * x.max(1, keepdim=True)[0], "`max` looks for an index in it"),
    "a roll of everything": (lambda x: x.roll(3), "`roll` runs over all dimensions at once"),
    "a fixed scale for each": (
        lambda x: x * torch.arange(8.0, device=x.device)[None, :, None, None],
        "it meets a tensor of fixed width in `mul`",
    ),
    "an operator without a rule": (lambda x: x.renorm(2, 0, 1.0), "no rule for the operator `renorm`"),
}


@pytest.mark.parametrize(("function", "expected"), REASONS.values(), ids=REASONS)
def test_channels_that_may_not_go_say_why(function: Body, expected: str) -> None:
    graph = traced(behind(function))
    assert graph.groups == ()
    assert expected in reason(graph, "stem")


def test_only_what_an_unknown_operator_touches_is_left_whole() -> None:
    unknown = Function(lambda self, x: x.renorm(2, 0, 1.0))
    graph = traced(around(nn.ReLU(), Conv(8, 6, 1), unknown, Conv(6, 8, 1)))
    assert [group.name for group in graph.groups] == ["0", "4"]
    assert "no rule for the operator `renorm` in `3`" in reason(graph, "2")
    assert {item.module for item in graph.unsupported} == {"3"}


# --- Layers with weights.


def sequence(*layers: nn.Module) -> nn.Module:
    """Layers over positions and width, between two linear layers."""
    network = nn.Sequential(nn.Linear(8, 6), *layers)
    return Function(
        lambda self, x: self.head(self.layers(self.stem(x).flatten(2).mT)).mean(1),
        stem=Conv(3, 8, 1),
        layers=network,
        head=nn.Linear(6, 5),
    )


def memory(kind: type[nn.RNNBase], **options: Any) -> nn.Module:
    made = kind(8, 6, batch_first=True, **options)
    return Function(
        lambda self, x: self.head(self.memory(self.stem(x).flatten(2).mT)[0]),
        stem=Conv(3, 8, 3, 3),
        memory=made,
        head=nn.Linear(6 * (2 if options.get("bidirectional") else 1), 5),
    )


def bare(function: Callable[[Any, Tensor], Tensor], **parameters: Tensor) -> nn.Module:
    return Function(
        lambda self, x: self.head(function(self, self.stem(x))),
        stem=Conv(3, 8, 1),
        head=Conv(8, 5, 1),
        **{name: nn.Parameter(tensor) for name, tensor in parameters.items()},
    )


def with_buffers(function: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    network = bare(function, weight=torch.rand(8), bias=torch.rand(8))
    for name in ("mean", "var"):
        network.register_buffer(name, torch.rand(8) + 0.5)
    return network


def pairs() -> nn.Module:
    return Function(
        lambda self, x: self.head(
            self.pair(self.one(x.mean((2, 3))).relu(), self.two(x.amax((2, 3))).relu())
        ),
        one=nn.Linear(3, 6),
        two=nn.Linear(3, 7),
        pair=nn.Bilinear(6, 7, 8),
        head=nn.Linear(8, 5),
    )


LAYERS: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "a bilinear layer": (pairs, {"one": 6, "two": 7, "pair": 8}),
    "a convolution": (lambda: around(Conv(8, 6, 3), outputs=6), {"0": 8, "1": 6}),
    "a strided dilated convolution": (
        lambda: around(Conv(8, 6, 3, 2, 2, 2, bias=False), outputs=6),
        {"0": 8, "1": 6},
    ),
    "a convolution of one sample": (
        lambda: Function(lambda self, x: self.head(self.stem(x[0])), stem=Conv(3, 8, 1), head=Conv(8, 5, 1)),
        {"stem": 8},
    ),
    "a convolution along lines": (
        lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 8, 3), nn.Conv1d(8, 5, 1)),
        {"1": 8},
    ),
    "a convolution of volumes": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 8, 3), nn.BatchNorm3d(8), nn.Conv3d(8, 5, 1)
        ),
        {"1": 8},
    ),
    "a depthwise convolution": (lambda: around(Conv(8, 8, 3, groups=8), nn.BatchNorm2d(8)), {"0": 8}),
    "a depthwise multiplier": (
        lambda: around(Conv(8, 24, 3, groups=8), nn.Hardswish(), outputs=24),
        {"0": 8},
    ),
    "many narrow blocks": (lambda: around(Conv(8, 12, 3, groups=4), nn.Sigmoid(), outputs=12), {"0": 4}),
    "few wide blocks": (
        lambda: around(Conv(8, 12, 3, groups=2), nn.Sigmoid(), outputs=12),
        {"0": 4, "1": 6},
    ),
    "a transposed convolution": (lambda: around(nn.ConvTranspose2d(8, 6, 2, 2), outputs=6), {"0": 8, "1": 6}),
    "a transposed convolution along lines": (
        lambda: nn.Sequential(
            nn.Flatten(2), nn.Conv1d(3, 8, 1), nn.ConvTranspose1d(8, 6, 3), nn.Conv1d(6, 5, 1)
        ),
        {"1": 8, "2": 6},
    ),
    "a transposed convolution of volumes": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 8, 3), nn.ConvTranspose3d(8, 6, 3), nn.Conv3d(6, 5, 1)
        ),
        {"1": 8, "2": 6},
    ),
    "a depthwise transposed convolution": (lambda: around(nn.ConvTranspose2d(8, 8, 2, groups=8)), {"0": 8}),
    "a grouped transposed convolution": (
        lambda: around(nn.ConvTranspose2d(8, 4, 2, groups=2), outputs=4),
        {"0": 2},
    ),
    "linear layers over positions": (lambda: sequence(nn.GELU()), {"stem": 8, "layers.0": 6}),
    "a linear layer over one dimension": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 8), nn.Linear(8, 5)),
        {"2": 8},
    ),
    "a product by the weight": (
        lambda: Function(
            lambda self, x: self.head(torch.mm(x.mean((2, 3)), self.weight)),
            weight=nn.Parameter(torch.randn(3, 8)),
            head=nn.Linear(8, 5),
        ),
        {"weight": 8},
    ),
    "an addmm": (
        lambda: Function(
            lambda self, x: self.head(torch.addmm(self.bias, x.mean((2, 3)), self.weight)),
            weight=nn.Parameter(torch.randn(3, 8)),
            bias=nn.Parameter(torch.randn(8)),
            head=nn.Linear(8, 5),
        ),
        {"weight": 8},
    ),
    "a product by a transposed weight": (
        lambda: Function(
            lambda self, x: self.head(x.mean((2, 3)) @ self.weight.t()),
            weight=nn.Parameter(torch.randn(8, 3)),
            head=nn.Linear(8, 5),
        ),
        {"weight": 8},
    ),
    "an einsum with a weight": (
        lambda: bare(lambda self, x: torch.einsum("bchw,dc->bdhw", x, self.weight), weight=torch.randn(8, 8)),
        {"stem": 8, "weight": 8},
    ),
    "an mv": (
        lambda: bare(
            lambda self, x: x * torch.mv(self.weight, self.vector).view(-1, 1, 1),
            weight=torch.randn(8, 7),
            vector=torch.randn(7),
        ),
        {},
    ),
    "an addmv": (
        lambda: bare(
            lambda self, x: x * torch.addmv(self.bias, self.weight, self.vector).view(-1, 1, 1),
            weight=torch.randn(8, 7),
            vector=torch.randn(7),
            bias=torch.randn(8),
        ),
        {},
    ),
    "a dot": (
        lambda: bare(
            lambda self, x: x * torch.dot(self.one, self.other), one=torch.randn(7), other=torch.randn(7)
        ),
        {},
    ),
    "a vdot": (
        lambda: bare(
            lambda self, x: x * torch.vdot(self.one, self.other), one=torch.randn(7), other=torch.randn(7)
        ),
        {},
    ),
    "a batch norm": (lambda: around(nn.BatchNorm2d(8)), {"0": 8}),
    "a batch norm below torch's own": (
        lambda: with_buffers(
            lambda self, x: (
                aten._native_batch_norm_legit_no_training(
                    x, self.weight, self.bias, self.mean, self.var, 0.1, 1e-5
                )[0]
                + aten._native_batch_norm_legit(
                    x, self.weight, self.bias, self.mean, self.var, False, 0.1, 1e-5
                )[0]
            )
        ),
        {"stem": 8},
    ),
    "stochastic depth": (lambda: around(torchvision.ops.StochasticDepth(0.5, "row")), {"0": 8}),
    "batch norms without scale or statistics": (
        lambda: around(
            nn.BatchNorm2d(8, affine=False),
            Conv(8, 6, 1),
            nn.BatchNorm2d(6, track_running_stats=False),
            outputs=6,
        ),
        {"0": 8, "2": 6},
    ),
    "a batch norm of values": (
        lambda: nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)
        ),
        {"2": 8},
    ),
    "an instance norm": (
        lambda: around(nn.InstanceNorm2d(8, affine=True, track_running_stats=True)),
        {"0": 8},
    ),
    "a layer norm over the width": (lambda: sequence(nn.LayerNorm(6)), {"stem": 8, "layers.0": 6}),
    "a layer norm without weights": (
        lambda: sequence(nn.LayerNorm(6, elementwise_affine=False)),
        {"stem": 8, "layers.0": 6},
    ),
    "an rms norm": (lambda: sequence(nn.RMSNorm(6)), {"stem": 8, "layers.0": 6}),
    "a layer norm over channels and space": (lambda: around(nn.LayerNorm((8, 8, 8))), {"0": 8}),
    "a group norm over one group": (lambda: around(nn.GroupNorm(1, 8)), {"0": 8}),
    "a group norm over few groups": (lambda: around(nn.GroupNorm(2, 8)), {"0": 4}),
    "a group norm over many groups": (lambda: around(nn.GroupNorm(4, 8)), {"0": 4}),
    "a group norm over all": (lambda: around(nn.GroupNorm(8, 8)), {"0": 8}),
    "a prelu": (lambda: around(nn.PReLU(8), Conv(8, 6, 1), nn.PReLU(), outputs=6), {"0": 8, "2": 6}),
    "an lstm": (lambda: memory(nn.LSTM), {"stem": 8, "memory": 6}),
    "an lstm of several layers in both directions": (
        lambda: memory(nn.LSTM, num_layers=2, bidirectional=True),
        {"stem": 8, "memory": 6},
    ),
    "an lstm without biases": (lambda: memory(nn.LSTM, bias=False), {"stem": 8, "memory": 6}),
    "a gru": (lambda: memory(nn.GRU), {"stem": 8, "memory": 6}),
    "a plain recurrent layer": (lambda: memory(nn.RNN), {"stem": 8, "memory": 6}),
    "a plain recurrent layer with a relu": (
        lambda: memory(nn.RNN, nonlinearity="relu"),
        {"stem": 8, "memory": 6},
    ),
    "attention of torch": (
        lambda: Function(
            lambda self, x: self.head(self.look(*[self.stem(x).flatten(2).mT] * 3)[0]),
            stem=Conv(3, 8, 1),
            look=nn.MultiheadAttention(8, 2, batch_first=True),
            head=nn.Linear(8, 5),
        ),
        {"stem": 8, "look": 4, "look.out_proj": 8},
    ),
    "a weight with its length apart": (
        lambda: around(nn.utils.parametrizations.weight_norm(Conv(8, 6, 1)), outputs=6),
        {"0": 8, "1.parametrizations.weight": 6},
    ),
    "a standardised weight": (
        lambda: bare(
            lambda self, x: F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True)),
            weight=torch.randn(8, 8, 1, 1),
        ),
        {"stem": 8, "weight": 8},
    ),
    "a scale and a shift": (
        lambda: bare(
            lambda self, x: x * self.scale + self.shift,
            scale=torch.ones(8, 1, 1),
            shift=torch.ones(1, 8, 1, 1),
        ),
        {"stem": 8},
    ),
    "a parameter over space": (
        lambda: bare(lambda self, x: x * self.map, map=torch.ones(1, 1, 1, 8)),
        {"stem": 8},
    ),
    "a parameter over channels and space": (
        lambda: bare(lambda self, x: x * self.map, map=torch.ones(8, 8, 8)),
        {"stem": 8},
    ),
    "a token in front of all": (
        lambda: Function(
            lambda self, x: self.head(
                torch.cat([self.token.expand(x.shape[0], -1, -1), self.stem(x).flatten(2).mT], 1)
                + self.places
            )[:, 0],
            stem=Conv(3, 8, 1),
            token=nn.Parameter(torch.randn(1, 1, 8)),
            places=nn.Parameter(torch.randn(1, 65, 8)),
            head=nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 5)),
        ),
        {"stem": 8},
    ),
}


@pytest.mark.parametrize(("make", "expected"), LAYERS.values(), ids=LAYERS)
def test_layers_are_cut_as_far_as_they_can_be(
    make: Callable[[], nn.Module], expected: dict[str, int]
) -> None:
    graph = traced(make())
    assert graph.unsupported == ()
    if expected:
        assert units(graph) == expected


def test_a_bilinear_layer_costs_the_product_of_its_three_sizes() -> None:
    graph = traced(pairs())
    (product,) = [layer for layer in graph.layers if layer.name == "pair"]
    assert product.positions * math.prod(factor.at((6, 7, 8)) for factor in product.factors) == 6 * 7 * 8


def test_words_that_are_looked_up_are_whole_and_what_reads_them_is_cut() -> None:
    network = words()
    graph = traced(network, torch.arange(8).reshape(4, 2))
    assert units(graph) == {"body": 8}
    assert "words.weight" not in {slot.tensor for slot in graph.groups[0].slots}


def words() -> nn.Module:
    return Function(
        lambda self, x: self.head(self.body(self.words(x).mean(1))),
        words=nn.Embedding(10, 6), body=nn.Linear(6, 8), head=nn.Linear(8, 5),
    )  # fmt: skip


# --- Where channels lie.


def test_depthwise_channels_go_with_those_they_read() -> None:
    graph = traced(around(Conv(8, 8, 3, groups=8), nn.BatchNorm2d(8)))
    (group,) = graph.groups
    assert [slot.tensor for slot in group.produces] == ["0.weight", "1.weight"]
    assert graph.blocks == {"1.weight": 8}


def test_a_depthwise_multiplier_makes_units_of_several_channels() -> None:
    graph = traced(around(Conv(8, 24, 3, groups=8), nn.Hardswish(), outputs=24))
    (group,) = graph.groups
    (head,) = [slot for slot in group.slots if slot.tensor == "3.weight"]
    assert head.indices.tolist() == [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(8)]


def test_many_narrow_blocks_go_as_whole_blocks() -> None:
    graph = traced(around(Conv(8, 12, 3, groups=4), nn.Sigmoid(), outputs=12))
    (group,) = graph.groups
    assert (group.units, group.channels_per_unit) == (4, 2)
    assert graph.blocks == {"1.weight": 4}


def test_few_wide_blocks_lose_the_same_position_each() -> None:
    graph = traced(around(Conv(8, 12, 3, groups=2), nn.Sigmoid(), outputs=12))
    read, written = graph.groups
    assert read.slots[0].indices.tolist() == [[i, i + 4] for i in range(4)]
    assert written.slots[0].indices.tolist() == [[i, i + 6] for i in range(6)]
    assert graph.blocks == {}


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
    graph = traced(behind(lambda x: torch.cat([x, x.relu()], 1)))
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


def test_a_shuffled_channel_is_read_where_it_went() -> None:
    (group,) = traced(behind(lambda x: x.view(-1, 2, 4, 8, 8).transpose(1, 2).flatten(1, 2))).groups
    assert group.slots[-1].indices.ravel().tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_a_parameter_over_space_is_no_channel() -> None:
    (group,) = traced(LAYERS["a parameter over space"][0]()).groups
    assert "map" not in {slot.tensor for slot in group.slots}


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


def test_a_recurrent_layer_with_a_projection_is_left_whole() -> None:
    network = Function(
        lambda self, x: self.head(self.memory(self.stem(x).flatten(2).mT)[0]),
        stem=Conv(3, 8, 1),
        memory=nn.LSTM(8, 6, proj_size=4, batch_first=True),
        head=nn.Linear(4, 5),
    )
    graph = traced(network)
    assert graph.groups == ()
    assert reason(graph, "stem") == "a recurrent layer with a projection"


# --- Every rule is run by a network above.

NEVER_RECORDED = {
    **dict.fromkeys(
        """adaptive_avg_pool1d adaptive_max_pool1d avg_pool1d max_pool1d max_pool2d argsort contiguous meshgrid positive
        prelu relu6 reshape selu square""".split(),
        "torch 2.15 takes it apart into others of the table before it is seen",
    ),
    "native_channel_shuffle": "on a CPU it is a view, a transpose and a view",
    "cudnn_batch_norm": "needs a GPU",
    "_adaptive_avg_pool3d": "a pool to one is a mean, and to another size it goes by its public name",
    "flip_sort": "there is no such operator",
    "lift_fresh": "meta tensors are made without it",
}
"""Rules of operators that no network reaches here, with the reason."""


def test_every_rule_is_run_by_a_network_of_this_file() -> None:
    bodies = [behind(unary(function)) for function in UNARY.values()]
    bodies += [meeting(function) for function in BINARY.values()]
    bodies += [behind(function) for function, _ in MOVING.values()]
    bodies += [make() for make, _ in LAYERS.values()]
    recordings = [record(network, inputs_of(images(2))) for network in bodies]
    recordings.append(record(words(), inputs_of(torch.arange(4).view(2, 2))))
    run = {operation.operator for recording in recordings for operation in recording.operations}
    run |= {operator.removesuffix("_") for operator in run}
    assert set(RULES) - run == set(NEVER_RECORDED)
