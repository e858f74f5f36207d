"""Small real networks, a Hypothesis strategy that generates them, and plans for any of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.base.checks import Check
from compressor.pruning.cutting import cut
from compressor.pruning.cutting.proof import check_cut
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.plan import Kept, Plan, plan_keeping

SIDE = 8
# Half of these do not map zero to zero: a removed channel that still spoke would be heard.
ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU, nn.Softplus, nn.ReLU6, nn.Tanh,
)  # fmt: skip


def images(samples: int = 4, *, seed: int = 0, side: int = SIDE) -> Tensor:
    return torch.randn(samples, 3, side, side, generator=torch.Generator().manual_seed(seed))


def with_statistics(network: nn.Module, seed: int = 0) -> nn.Module:
    """Norms, statistics and biases that are neither zero nor one, so that forgetting one shows."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                if tensor is not None:
                    tensor.data.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def random_units(graph: ChannelGraph, seed: int, share: float = 0.5) -> dict[str, Kept]:
    """Some units of every group, at least one."""
    rng = np.random.default_rng(seed)
    kept = {}
    for group in graph.groups:
        stays = rng.random(group.units) < share
        stays[rng.integers(group.units)] = True
        kept[group.name] = tuple(np.flatnonzero(stays).tolist())
    return kept


def cut_at_random(
    network: nn.Module, inputs: Tensor | None = None, seed: int = 0
) -> tuple[ChannelGraph, nn.Module, Plan, tuple[Check, ...]]:
    """Trace, choose channels by lot, cut, compare."""
    inputs = images() if inputs is None else inputs
    graph = trace(network, inputs[:1])
    plan = plan_keeping(graph, random_units(graph, seed))
    student = cut(network, plan)
    return graph, student, plan, check_cut(network, student, plan, (inputs,))


def proven(checks: tuple[Check, ...]) -> bool:
    """All passed, and none of them on outputs that were nothing but zero."""
    return all(check.passed and check.tolerance > 0 for check in checks)


class Function(nn.Module):
    """A forward pass written as a function of the module and the input."""

    def __init__(self, function: Callable[[Function, Tensor], object], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> object:
        return self.function(self, x)


class Residual(nn.Module):
    """``act(conv-bn-act-conv-bn(x) + shortcut(x))``: an identity where the widths agree, else a projection."""

    def __init__(self, inputs: int, outputs: int, norm: bool, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(inputs, outputs, norm, kernel=3), act(), convolution(outputs, outputs, norm, kernel=1)
        )
        self.shortcut = nn.Identity() if inputs == outputs else convolution(inputs, outputs, norm, kernel=1)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.shortcut(x))


class Dense(nn.Module):
    """Every layer reads all that came before: norms and convolutions over a growing concatenation."""

    def __init__(self, inputs: int, growth: int, layers: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(inputs + i * growth),
                act(),
                nn.Conv2d(inputs + i * growth, growth, 3, padding=1, bias=False),
            )
            for i in range(layers)
        )
        self.width = inputs + layers * growth

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


class SqueezeExcite(nn.Module):
    """A gate for every channel, computed from all of them."""

    def __init__(self, width: int, inner: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, inner, 1)
        self.expand = nn.Conv2d(inner, width, 1)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.expand(self.act(self.reduce(F.adaptive_avg_pool2d(x, 1)))))


class FlattenHead(nn.Module):
    """Channels meet a linear layer through a flatten, as in AlexNet and VGG."""

    def __init__(self, width: int, side: int, hidden: int, norm: bool) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(side)
        self.hidden = nn.Linear(width * side * side, hidden)
        self.norm = nn.BatchNorm1d(hidden) if norm else nn.Identity()
        self.head = nn.Linear(hidden, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.hardswish(self.norm(self.hidden(self.pool(x).flatten(1)))))


class PooledHead(nn.Module):
    """Mean over space, then one linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))


def convolution(
    inputs: int, outputs: int, norm: bool, *, kernel: int = 3, groups: int = 1, bias: bool = True
) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs)) if norm else conv


class Attention(nn.Module):
    """Every way in which attention is written, on the tokens of a picture.

    ``style``: one layer for queries, keys and values or three, heads split off by a view or by an unflatten, a table
    of relative positions, a product written out or fused; sizes taken from attributes or from tensors.
    """

    STYLES = ("fused", "separate", "torch", "relative", "einsum", "chunked", "cross")

    def __init__(self, width: int, heads: int, head_width: int, tokens: int, style: str) -> None:
        super().__init__()
        inner = heads * head_width
        self.style, self.heads, self.scale = style, heads, head_width**-0.5
        self.norm = nn.LayerNorm(width)
        if style == "torch":
            self.look = nn.MultiheadAttention(width, heads, batch_first=True)
            return
        if style in ("separate", "einsum", "cross"):
            self.q, self.k, self.v = (nn.Linear(width, inner) for _ in range(3))
        else:
            self.qkv = nn.Linear(width, 3 * inner)
        self.inner = inner
        self.out = nn.Linear(inner, width)
        if style == "relative":
            self.table = nn.Parameter(torch.randn(2 * tokens - 1, heads))
            places = torch.arange(tokens)
            self.register_buffer("places", places[:, None] - places[None, :] + tokens - 1, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        if self.style == "torch":
            return x + self.look(normed, normed, normed, need_weights=False)[0]
        return x + self.out(getattr(self, self.style)(normed))

    def fused(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, -1)

    def chunked(self, x: Tensor) -> Tensor:
        q, k, v = (self._heads(each) for each in self.qkv(x).chunk(3, -1))
        weights = ((q * self.scale) @ k.mT).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    def separate(self, x: Tensor) -> Tensor:
        q, k, v = (self._heads(layer(x)) for layer in (self.q, self.k, self.v))
        return F.scaled_dot_product_attention(q, k, v, scale=self.scale).transpose(1, 2).flatten(2)

    def cross(self, x: Tensor) -> Tensor:
        """Attention over channels instead of positions, as in XCiT."""
        q, k, v = (self._heads(layer(x)).mT for layer in (self.q, self.k, self.v))
        weights = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT).softmax(-1)
        return (weights @ v).permute(0, 3, 1, 2).flatten(2)

    def relative(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        shape = (batch, tokens, 3, self.heads, self.inner // self.heads)
        q, k, v = self.qkv(x).view(shape).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1)) * self.scale + self.table[self.places].permute(2, 0, 1)
        return (weights.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, self.inner)

    def einsum(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)) for layer in (self.q, self.k, self.v))
        weights = (torch.einsum("bnhd,bmhd->bhnm", q, k) * self.scale).softmax(-1)
        return torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class OnTokens(nn.Module):
    """A module over positions and width, applied to a picture."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        found = self.module(x.flatten(2).transpose(1, 2))
        found = found[0] if isinstance(found, tuple) else found
        return found.transpose(1, 2).unflatten(2, x.shape[2:])


class ChannelsLast(nn.Module):
    """A module over the last dimension, applied to the channels of a picture (as ConvNeXt's layer norm)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GatedMLP(nn.Module):
    """One layer makes values and their gates; ``half`` takes them apart by a number that stands in Python."""

    def __init__(self, width: int, hidden: int, fixed: bool) -> None:
        super().__init__()
        self.both, self.out = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)
        self.half = hidden if fixed else None

    def forward(self, x: Tensor) -> Tensor:
        both = self.both(x)
        value, gate = both.chunk(2, -1) if self.half is None else both.split(self.half, -1)
        return x + self.out(F.silu(gate) * value)


class MLP(nn.Module):
    """The feed-forward half of a transformer block, with a scale for each channel of what it adds."""

    def __init__(self, width: int, hidden: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm, self.one, self.two = norm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.gamma = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.two(F.gelu(self.one(self.norm(x))))


class Shuffled(nn.Module):
    """Halves, one of which is worked on, joined and shuffled, as in ShuffleNet; the shuffle may be written out."""

    def __init__(self, width: int, groups: int, written_out: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width // 2, width // 2, 1), nn.BatchNorm2d(width // 2), nn.ReLU())
        self.groups, self.written_out = groups, written_out

    def forward(self, x: Tensor) -> Tensor:
        one, other = x.chunk(2, 1)
        x = torch.cat([one, self.body(other)], 1)
        if not self.written_out:
            return F.channel_shuffle(x, self.groups)
        batch, channels, height, width = x.shape
        x = x.view(batch, self.groups, channels // self.groups, height, width).transpose(1, 2).contiguous()
        return x.view(batch, -1, height, width)


class Res2(nn.Module):
    """Parts of the channels, each convolved together with what the part before gave, as in Res2Net."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.part = width // parts
        self.bodies = nn.ModuleList(nn.Conv2d(self.part, self.part, 3, padding=1) for _ in range(parts - 1))

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = x.split(self.part, 1)
        found = [first]
        for part, body in zip(rest, self.bodies, strict=True):
            found.append(torch.relu(body(part if len(found) == 1 else part + found[-1])))
        return torch.cat(found, 1)


class PaddedShortcut(nn.Module):
    """A residual block that widens; the shortcut's missing channels are zeros, as in the first ResNets for CIFAR."""

    def __init__(self, inputs: int, more: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, inputs + more, 3, padding=1), nn.BatchNorm2d(inputs + more)
        )
        self.around = (more // 2, more - more // 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + F.pad(x, (0, 0, 0, 0, *self.around)))


class Parts(nn.Module):
    """Branches of unequal widths, joined; each of another kind, as in Inception."""

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inputs, width, 1 + 2 * (i % 2), padding=i % 2), ACTIVATIONS[i % 3]())
            for i, width in enumerate(widths)
        )
        self.width = sum(widths)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Moved(nn.Module):
    """Channels in another order, met with themselves in the old one."""

    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        self.layer, self.how = nn.Conv2d(width, width, 1), how
        self.register_buffer("order", torch.randperm(width))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.layer(x))
        if self.how == "flip":
            return x + y.flip(1)
        return torch.cat([y.roll(3, 1), x], 1) if self.how == "roll" else x * y[:, self.order]


class OneDimensional(nn.Module):
    """A convolution along the rows of a picture, all of them at once."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.along = nn.Conv1d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(self.norm(self.along(x.flatten(2)))).unflatten(2, x.shape[2:])


class ThreeDimensional(nn.Module):
    """A convolution over a picture and a third dimension of one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.over = nn.Conv3d(inputs, outputs, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.over(x.unsqueeze(2))).squeeze(2)


@st.composite
def networks(draw: st.DrawFn, kinds: tuple[str, ...] | None = None) -> nn.Module:
    """A stem, up to four blocks of any kind, a head; weights from a drawn seed."""
    seed = draw(st.integers(0, 2**16))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        width = draw(st.sampled_from((4, 6, 8, 12)))
        parts = [convolution(3, width, draw(st.booleans()), bias=draw(st.booleans())), draw(activations)()]
        side = SIDE
        for _ in range(draw(st.integers(1, 4))):
            part, width, side = draw(_block(width, side, kinds or tuple(BLOCKS)))
            parts.append(part)
        pooled = PooledHead(width)
        heads = (pooled, FlattenHead(width, draw(st.sampled_from((1, 2))), 6, draw(st.booleans())))
        parts.append(draw(st.sampled_from(heads)))
        return with_statistics(nn.Sequential(*parts), seed)


activations = st.sampled_from(ACTIVATIONS)
Built = tuple[nn.Module, int, int]
"""A block, the width that it gives, the side of the picture that it gives."""


@st.composite
def _block(draw: st.DrawFn, width: int, side: int, kinds: tuple[str, ...]) -> Built:
    return BLOCKS[draw(st.sampled_from(kinds))](draw, width, side)


def _chain(draw: st.DrawFn, width: int, side: int) -> Built:
    wider = draw(st.sampled_from((4, 7, 9)))
    made = convolution(width, wider, draw(st.booleans()), bias=draw(st.booleans()))
    return nn.Sequential(made, draw(activations)()), wider, side


def _residual(draw: st.DrawFn, width: int, side: int) -> Built:
    wider = width + draw(st.sampled_from((0, 2, 4)))
    return Residual(width, wider, draw(st.booleans()), draw(activations)), wider, side


def _dense(draw: st.DrawFn, width: int, side: int) -> Built:
    dense = Dense(width, draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(activations))
    return dense, dense.width, side


def _gate(draw: st.DrawFn, width: int, side: int) -> Built:
    return SqueezeExcite(width, draw(st.integers(1, 4)), draw(activations)), width, side


def _pool(draw: st.DrawFn, width: int, side: int) -> Built:
    pool = draw(st.sampled_from(POOLS))
    if not isinstance(pool, nn.Upsample):
        return pool, width, side
    return (pool, width, side * 2) if side <= SIDE else (nn.AvgPool2d(2), width, side // 2)


def _depthwise(draw: st.DrawFn, width: int, side: int) -> Built:
    wider = width * draw(st.sampled_from((1, 2)))
    grouped = convolution(width, wider, draw(st.booleans()), groups=width, bias=draw(st.booleans()))
    return nn.Sequential(grouped, draw(activations)()), wider, side


def _narrow_blocks(draw: st.DrawFn, width: int, side: int) -> Built:
    # The width may not divide: a convolution in between makes it a number of pairs.
    pairs = 2 * draw(st.sampled_from((3, 4)))
    norm, act = draw(st.booleans()), draw(activations)
    grouped = convolution(pairs, pairs, norm, groups=pairs // 2, bias=draw(st.booleans()))
    return nn.Sequential(convolution(width, pairs, norm), act(), grouped, act()), pairs, side


def _wide_blocks(draw: st.DrawFn, width: int, side: int) -> Built:
    wider = draw(st.sampled_from((6, 8)))
    norm, act = draw(st.booleans()), draw(activations)
    grouped = convolution(12, wider, norm, groups=2, bias=draw(st.booleans()))
    return nn.Sequential(convolution(width, 12, norm), act(), grouped, act()), wider, side


def _attention(draw: st.DrawFn, width: int, side: int) -> Built:
    style, heads = draw(st.sampled_from(Attention.STYLES)), draw(st.sampled_from((1, 2, 3)))
    if side > SIDE:
        return nn.AvgPool2d(2), width, side // 2
    if width % heads:
        heads = 1
    return OnTokens(Attention(width, heads, draw(st.integers(2, 4)), side * side, style)), width, side


def _mlp(draw: st.DrawFn, width: int, side: int) -> Built:
    norm = draw(st.sampled_from((nn.LayerNorm, nn.RMSNorm, nn.Identity)))
    return ChannelsLast(MLP(width, draw(st.integers(3, 9)), norm)), width, side


def _gated_mlp(draw: st.DrawFn, width: int, side: int) -> Built:
    return ChannelsLast(GatedMLP(width, draw(st.integers(2, 5)), draw(st.booleans()))), width, side


def _shuffle(draw: st.DrawFn, width: int, side: int) -> Built:
    if width % 2:
        return convolution(width, width + 1, True), width + 1, side
    return Shuffled(width, 2, draw(st.booleans())), width, side


def _res2(draw: st.DrawFn, width: int, side: int) -> Built:
    parts = draw(st.sampled_from((2, 3)))
    if width % parts:
        return convolution(width, 12, True), 12, side
    return Res2(width, parts), width, side


def _padded(draw: st.DrawFn, width: int, side: int) -> Built:
    more = draw(st.integers(1, 5))
    return PaddedShortcut(width, more), width + more, side


def _norm(draw: st.DrawFn, width: int, side: int) -> Built:
    groups = draw(st.sampled_from([each for each in range(1, width + 1) if width % each == 0]))
    made = (
        nn.GroupNorm(groups, width),
        ChannelsLast(nn.LayerNorm(width)),
        ChannelsLast(nn.RMSNorm(width)),
        nn.InstanceNorm2d(width, affine=draw(st.booleans())),
        nn.GroupNorm(1, width),
    )
    # One position has no spread, of which an instance norm would make noise: the picture is large enough here.
    return nn.Sequential(nn.Conv2d(width, width, 1), draw(st.sampled_from(made))), width, side


def _prelu(draw: st.DrawFn, width: int, side: int) -> Built:
    return nn.PReLU(draw(st.sampled_from((1, width)))), width, side


def _transposed(draw: st.DrawFn, width: int, side: int) -> Built:
    if side > SIDE:
        return nn.AvgPool2d(2), width, side // 2
    groups = draw(st.sampled_from([each for each in range(1, width + 1) if width % each == 0]))
    wider = groups * draw(st.integers(1, 3))
    made = nn.ConvTranspose2d(width, wider, 2, stride=2, groups=groups, bias=draw(st.booleans()))
    return nn.Sequential(made, draw(activations)()), wider, side * 2


def _other_dimensions(draw: st.DrawFn, width: int, side: int) -> Built:
    wider = draw(st.integers(3, 8))
    return draw(st.sampled_from((OneDimensional, ThreeDimensional)))(width, wider), wider, side


def _pixel_shuffle(draw: st.DrawFn, width: int, side: int) -> Built:
    if side > SIDE:
        return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * width, width, 1)), width, side // 2
    wider = draw(st.integers(2, 5))
    return nn.Sequential(nn.Conv2d(width, 4 * wider, 1), nn.PixelShuffle(2), nn.ReLU()), wider, side * 2


def _parts(draw: st.DrawFn, width: int, side: int) -> Built:
    parts = Parts(width, tuple(draw(st.lists(st.integers(1, 6), min_size=2, max_size=4))))
    return parts, parts.width, side


def _moved(draw: st.DrawFn, width: int, side: int) -> Built:
    how = draw(st.sampled_from(("flip", "roll", "index")))
    return Moved(width, how), width * (2 if how == "roll" else 1), side


def _recurrent(draw: st.DrawFn, width: int, side: int) -> Built:
    kind, hidden = draw(st.sampled_from((nn.LSTM, nn.GRU, nn.RNN))), draw(st.integers(2, 5))
    both = draw(st.booleans())
    made = kind(width, hidden, draw(st.integers(1, 2)), batch_first=True, bidirectional=both)
    # Counting its products takes a millisecond a position.
    smaller = nn.AdaptiveAvgPool2d(SIDE // 2)
    return nn.Sequential(smaller, OnTokens(made)), hidden * (2 if both else 1), SIDE // 2


def _weight_norm(draw: st.DrawFn, width: int, side: int) -> Built:
    wider = draw(st.integers(3, 8))
    made = nn.utils.parametrizations.weight_norm(nn.Conv2d(width, wider, 3, padding=1))
    return nn.Sequential(made, draw(activations)()), wider, side


BLOCKS: dict[str, Callable[[st.DrawFn, int, int], Built]] = {
    "chain": _chain,
    "residual": _residual,
    "dense": _dense,
    "gate": _gate,
    "pool": _pool,
    "depthwise": _depthwise,
    "narrow blocks": _narrow_blocks,
    "wide blocks": _wide_blocks,
    "attention": _attention,
    "mlp": _mlp,
    "gated mlp": _gated_mlp,
    "shuffle": _shuffle,
    "res2": _res2,
    "padded shortcut": _padded,
    "norm": _norm,
    "prelu": _prelu,
    "transposed": _transposed,
    "other dimensions": _other_dimensions,
    "pixel shuffle": _pixel_shuffle,
    "parts": _parts,
    "moved": _moved,
    "recurrent": _recurrent,
    "weight norm": _weight_norm,
}
CONVOLUTIONAL = ("chain", "residual", "dense", "gate", "pool", "depthwise", "narrow blocks", "wide blocks")
"""Blocks that any criterion scores and whose students are of the user's own class: enough for tests of other things."""
POOLS = (
    nn.MaxPool2d(3, stride=1, padding=1),
    nn.AvgPool2d(3, stride=1, padding=1),
    nn.Upsample(scale_factor=2),
)
