"""Networks made to be difficult: operators, forms and habits on which tools fail. Each is a network and its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Made = Callable[[], tuple[nn.Module, Any]]


class Between(nn.Module):
    """A convolution of 16 channels, a function of what it gives, and a convolution that reads that."""

    def __init__(self, function: Callable[[Any, Tensor], Any], read: int = 16, **parts: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(read, 4, 3, padding=1)
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: Tensor) -> Any:
        return self.b(self.function(self, self.a(x)))


X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def between(function: Callable[[Any, Tensor], Any], read: int = 16, **parts: Callable[[], Any]) -> Made:
    return lambda: (Between(function, read, **{name: part() for name, part in parts.items()}), X)


def _fixed(x: Tensor) -> Tensor:
    return x.view(len(x), 16, 64).view(len(x), 16, 8, 8)


def _put(self: Any, x: Tensor) -> Tensor:
    x = x.clone()
    x[:, [1, 4, 7]] = x[:, [2, 5, 8]]
    return x


def _step(self: Any, x: Tensor) -> Tensor:
    x = _fixed(x).clone()
    x[:, 2::3] = x[:, 2::3].sigmoid()
    return x


def _marked(self: Any, x: Tensor) -> Tensor:
    with torch.profiler.record_function("middle"):
        return x.relu()


def _rope(self: Any, x: Tensor) -> Tensor:
    t = x.flatten(2).transpose(1, 2)
    half = t.shape[-1] // 2
    turned = torch.cat([-t[..., half:], t[..., :half]], -1)
    angle = torch.arange(t.shape[1], dtype=t.dtype)[:, None] * 0.1
    return (t * angle.cos() + turned * angle.sin()).transpose(1, 2).view(len(x), -1, 8, 8)


class Gather(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.o = nn.Parameter(torch.randn(16, 4, 6)), nn.Parameter(torch.randn(4, 6, 5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bthd,hdo->bto", torch.einsum("btc,chd->bthd", x, self.q).relu(), self.o)


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.g, self.w1 = nn.Linear(16, 4), nn.Parameter(torch.randn(4, 16, 32))
        self.w2 = nn.Parameter(torch.randn(4, 32, 16))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.einsum("bd,edh->beh", x, self.w1).relu()
        return (torch.einsum("beh,ehd->bed", hidden, self.w2) * self.g(x).softmax(-1)[..., None]).sum(1)


class Mixed(nn.Module):
    """Kernels mixed by a branch, for every sample its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.r = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)
        self.w = nn.Parameter(torch.randn(4, 10, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        w = torch.einsum("bk,koihw->boihw", self.r(y.mean((2, 3))).softmax(1), self.w)
        y = F.conv2d(y.reshape(1, -1, 8, 8), w.flatten(0, 1), padding=1, groups=len(x))
        return y.view(len(x), 10, 8, 8).mean((2, 3))


class Slices(nn.Module):
    """Convolutions whose weights are slices of two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.s, self.o = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.w, self.v = nn.Parameter(torch.randn(24, 3, 5, 5)), nn.Parameter(torch.randn(4, 24, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        a, b = F.conv2d(x, self.w[:11], padding=2), F.conv2d(x, self.w[11:], padding=2)
        a, b = (F.conv2d(y.relu(), v, padding=1) for y, v in ((a, self.v[:, :11]), (b, self.v[:, 11:])))
        return a + b + self.o(self.s(x).relu())


class Outputs(nn.Module):
    """A network that returns a tree of tensors."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.form = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3), form

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        out = self.a(x).relu()
        return self.form(self.b(out if y is None else out * y))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module], **more: Any) -> None:
        super().__init__()
        self.enter, self.rnn = nn.Linear(6, 12), kind(12, 16, batch_first=True, **more)
        self.head = nn.Linear((more.get("proj_size") or 16) * (2 if more.get("bidirectional") else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.enter(x))[0][:, -1])


class Plain(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _outputs(form: Callable[[Tensor], Any]) -> Made:
    return lambda: (Outputs(form), X)


SERIES = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))

DIFFICULT: dict[str, Made] = {
    # Views and writes in place.
    "step-slice": between(_step),
    "index-put": between(_put),
    "in-place-add": between(lambda self, x: x.clone().add_(x)),
    "masked-fill": between(lambda self, x: x.masked_fill(torch.arange(8) > 4, 0.0)),
    "as-strided": between(
        lambda self, x: x + torch.as_strided(self.p, (4, 4), (1, 2)).sum(), p=lambda: torch.randn(16)
    ),
    # Sizes that stand in Python.
    "fixed-view": between(lambda self, x: _fixed(x)),
    "fixed-split": between(lambda self, x: torch.cat([part.relu() for part in _fixed(x).split(4, 1)], 1)),
    "fixed-flatten": lambda: (Plain(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 5)), X),
    "shuffle": between(lambda self, x: x.view(len(x), 4, 4, 8, 8).transpose(1, 2).reshape(len(x), 16, 8, 8)),
    "pixel-shuffle": between(lambda self, x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2)),
    "unfold": between(lambda self, x: F.fold(F.unfold(x, 3, padding=1), (8, 8), 3, padding=1)),
    # Values of the network's own tensors, read in Python.
    "own-flag": between(lambda self, x: x.relu() if self.on else x, on=lambda: torch.tensor(1)),
    "own-number": between(lambda self, x: x * self.s.max().item(), s=lambda: torch.rand(3)),
    "own-sizes": between(lambda self, x: torch.cat(x.split(self.n.tolist(), 2), 2), n=lambda: torch.tensor([3, 5])),
    "own-mask": between(lambda self, x: F.pad(x[:, :, self.m], (0, 0, 1, 1)), m=lambda: torch.arange(8) % 4 != 1),
    # Operators without a rule, beside the channels and across them.
    "window": between(lambda self, x: _fixed(x) * torch.hann_window(8)),
    "rot90": between(lambda self, x: torch.rot90(_fixed(x), 1, (2, 3))),
    "one-hot": between(lambda self, x: _fixed(x) + F.one_hot(torch.arange(8), 8)),
    "gather-rows": between(lambda self, x: x.gather(2, torch.arange(7, -1, -1).view(1, 1, 8, 1).expand_as(x))),
    "gather-channels": between(lambda self, x: x.gather(1, torch.arange(15, -1, -1).view(1, 16, 1, 1).expand_as(x))),
    "scatter-add": between(lambda self, x: torch.zeros_like(x).scatter_add(3, torch.zeros_like(x).long(), x)),
    "index-add": between(lambda self, x: x.index_add(2, torch.tensor([1, 3]), x[:, :, :2])),
    "affine-grid": between(
        lambda self, x: F.grid_sample(
            x, F.affine_grid(self.t.expand(len(x), 2, 3), (len(x), 16, 8, 8), False), align_corners=False
        ),
        t=lambda: torch.eye(2, 3),
    ),
    "fft": between(lambda self, x: torch.fft.irfft2(torch.fft.rfft2(x) * 0.5, (8, 8))),
    "fft-channels": between(lambda self, x: torch.fft.fft(x, dim=1).real),
    "cdist": between(lambda self, x: x * torch.cdist(x.flatten(2), x.flatten(2)).mean()),
    "cumsum": between(lambda self, x: x.cumsum(3)),
    "cumsum-channels": between(lambda self, x: x.cumsum(1)),
    "cummax": between(lambda self, x: x.cummax(2).values),
    "logaddexp": between(lambda self, x: torch.logaddexp(x, x * 0.5)),
    "logcumsumexp": between(lambda self, x: x.logcumsumexp(2)),
    "hypot": between(lambda self, x: torch.hypot(x, x.relu())),
    "sort": between(lambda self, x: x.sort(3).values),
    "sort-channels": between(lambda self, x: x.sort(1).values),
    "topk": between(lambda self, x: F.pad(x.topk(4, 3).values, (0, 4))),
    "median": between(lambda self, x: x - x.median(3, keepdim=True).values),
    "renorm": between(lambda self, x: x.renorm(2, 0, 1.0)),
    "rope": between(_rope),
    "outer": between(lambda self, x: x * torch.outer(self.p, self.p), p=lambda: nn.Parameter(torch.randn(8))),
    "bilinear": lambda: (Pairs(), torch.randn(2, 6)),
    "complex": between(lambda self, x: torch.view_as_real(torch.complex(x, x.relu())).sum(-1)),
    "tensordot": between(
        lambda self, x: torch.tensordot(x, self.p, ([1], [0])).movedim(-1, 1),
        p=lambda: nn.Parameter(torch.randn(16, 16)),
    ),
    "kron": between(lambda self, x: x + torch.kron(torch.eye(2), self.p), p=lambda: nn.Parameter(torch.randn(4, 4))),
    "diag": between(lambda self, x: x + torch.diag_embed(self.p), p=lambda: nn.Parameter(torch.randn(8))),
    "nan-to-num": between(lambda self, x: (x / x.relu()).nan_to_num(0.0, 1.0, -1.0)),
    "bucketize": between(lambda self, x: x + torch.bucketize(x.mean(1, keepdim=True), torch.linspace(-1, 1, 5))),
    # Products of several dimensions.
    "einsum-heads": lambda: (Gather(), torch.randn(2, 3, 16)),
    "soft-experts": lambda: (Experts(), torch.randn(2, 16)),
    "mixed-kernels": lambda: (Mixed(), torch.randn(2, 3, 8, 8)),
    "slices-of-a-parameter": lambda: (Slices(), torch.randn(1, 3, 16, 16)),
    # Forms of inputs and outputs.
    "output-dict": _outputs(lambda out: {"out": out, "mean": out.mean(1)}),
    "output-tuple": _outputs(lambda out: (out, out.mean(1))),
    "output-nested": _outputs(lambda out: {"a": [out, {"b": out * 2}], "c": (out.mean(),)}),
    "two-inputs": lambda: (Outputs(lambda out: out), (X, torch.ones(1, 1, 6, 6))),
    "named-inputs": lambda: (Outputs(lambda out: out), {"x": X, "y": torch.ones(1, 1, 6, 6)}),
    # Wrappers and habits.
    "profiler-marks": between(_marked),
    "data-parallel": lambda: (nn.DataParallel(Plain(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))), X),
    "weight-norm": lambda: (
        Plain(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 16, 3)), nn.ReLU(), nn.Conv2d(16, 4, 3)), X),
    "spectral-norm": lambda: (
        Plain(nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 16, 3)), nn.ReLU(), nn.Conv2d(16, 4, 3)), X),
    "lstm": lambda: (Recurrent(nn.LSTM), SERIES),
    "lstm-projected": lambda: (Recurrent(nn.LSTM, proj_size=8), SERIES),
    "gru-both-ways": lambda: (Recurrent(nn.GRU, bidirectional=True), SERIES),
    "batch-of-one": between(lambda self, x: _fixed(x).relu() if len(x) == 1 else _fixed(x).tanh()),
    "shared-layer": lambda: (Shared(), X),
    "functional-norm": between(
        lambda self, x: F.batch_norm(x, self.m, self.v, self.w, None, self.training),
        m=lambda: torch.rand(16), v=lambda: torch.rand(16) + 0.5, w=lambda: nn.Parameter(torch.rand(16))),
}  # fmt: skip


class Pairs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.pair = nn.Linear(6, 12), nn.Linear(6, 10), nn.Bilinear(12, 10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.pair(self.a(x).relu(), self.b(x).relu())


class Shared(nn.Module):
    """One layer that is run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again, self.head = (
            nn.Conv2d(3, 16, 1),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.Conv2d(16, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.again(self.again(x).relu()) + x)
