"""Small real networks, a Hypothesis strategy that generates them, and plans for any of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.budget.plan import Kept, Plan, plan_keeping
from compressor.cutting import cut
from compressor.graph.channels import ChannelGraph
from compressor.graph.trace import trace
from compressor.proof import Check, check_cut

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


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    """A stem, up to four blocks of any kind, a head; weights from a drawn seed."""
    seed = draw(st.integers(0, 2**16))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        width = draw(st.sampled_from((4, 6, 8, 12)))
        parts = [convolution(3, width, draw(st.booleans()), bias=draw(st.booleans())), draw(activations)()]
        for _ in range(draw(st.integers(1, 4))):
            part, width = draw(_block(width))
            parts.append(part)
        pooled = PooledHead(width)
        heads = (pooled, FlattenHead(width, draw(st.sampled_from((1, 2))), 6, draw(st.booleans())))
        parts.append(draw(st.sampled_from(heads)))
        return with_statistics(nn.Sequential(*parts), seed)


activations = st.sampled_from(ACTIVATIONS)


@st.composite
def _block(draw: st.DrawFn, width: int) -> tuple[nn.Module, int]:
    kind = draw(st.sampled_from(KINDS))
    act, norm, bias = draw(activations), draw(st.booleans()), draw(st.booleans())
    if kind == "identity":
        return Residual(width, width, norm, act), width
    if kind == "projection":
        wider = width + draw(st.sampled_from((2, 4)))
        return Residual(width, wider, norm, act), wider
    if kind == "dense":
        dense = Dense(width, draw(st.integers(1, 4)), draw(st.integers(1, 3)), act)
        return dense, dense.width
    if kind == "gate":
        return SqueezeExcite(width, draw(st.integers(1, 4)), act), width
    if kind == "pool":
        return draw(st.sampled_from(POOLS)), width
    if kind == "depthwise":
        wider = width * draw(st.sampled_from((1, 2)))
        grouped = convolution(width, wider, norm, groups=width, bias=bias)
        return nn.Sequential(grouped, act()), wider
    if kind == "narrow blocks":
        # The width may not divide: a convolution in between makes it a number of pairs.
        pairs = 2 * draw(st.sampled_from((3, 4)))
        grouped = convolution(pairs, pairs, norm, groups=pairs // 2, bias=bias)
        return nn.Sequential(convolution(width, pairs, norm), act(), grouped, act()), pairs
    if kind == "wide blocks":
        wider = draw(st.sampled_from((6, 8)))
        grouped = convolution(12, wider, norm, groups=2, bias=bias)
        return nn.Sequential(convolution(width, 12, norm), act(), grouped, act()), wider
    wider = draw(st.sampled_from((4, 7, 9)))
    return nn.Sequential(convolution(width, wider, norm, bias=bias), act()), wider


KINDS = (
    "chain",
    "identity",
    "projection",
    "dense",
    "gate",
    "pool",
    "depthwise",
    "narrow blocks",
    "wide blocks",
)
POOLS = (
    nn.MaxPool2d(3, stride=1, padding=1),
    nn.AvgPool2d(3, stride=1, padding=1),
    nn.Upsample(scale_factor=2),
)
