"""The reference that a cut is held to, held itself to networks that were built narrow by hand.

Where a network only sums over its channels the reference is the teacher with weights set to zero. Where it takes
statistics over them, the reference is what the narrower network computes: here each is written down with the layer's
own constructor and the weights copied index by index, without anything of the product but the reference.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.models.copying import named_tensors
from compressor.pruning.cutting.silenced import silenced
from compressor.pruning.graph.labelled import walk
from compressor.pruning.graph.recording.example import inputs_of
from tests.compressor.networks import ChannelsLast, Function, images, with_statistics

Slices = Mapping[str, Mapping[int, tuple[int, ...]]]
KEEP = (0, 2, 3, 6)
X = images(3).double()
# float64: sums of at most a few hundred products in another order.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def reference(network: nn.Module, slices: Slices, x: Tensor = X) -> Tensor:
    (found,) = silenced(walk(network, inputs_of(x)), slices, named_tensors(network), [x])
    return found.detach()


def settled(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    return with_statistics(network).double()


def copied(narrow: nn.Module, wide: nn.Module, slices: Slices) -> nn.Module:
    """``narrow``, which was built by its constructor, with the weights of ``wide`` at these indices."""
    state = {}
    for name, tensor in wide.state_dict().items():
        for axis, kept in slices.get(name, {}).items():
            tensor = tensor[(slice(None),) * axis + (list(kept),)]
        state[name] = tensor
    narrow.double().eval().load_state_dict(state)
    return narrow


NORMS: dict[str, tuple[Callable[[int], nn.Module], tuple[int, ...]]] = {
    "a layer norm": (lambda width: ChannelsLast(nn.LayerNorm(width)), KEEP),
    "a layer norm over channels and space": (lambda width: nn.LayerNorm((width, 8, 8)), KEEP),
    "an rms norm": (lambda width: ChannelsLast(nn.RMSNorm(width, eps=1e-3)), KEEP),
    "a group norm over one group": (lambda width: nn.GroupNorm(1, width), KEEP),
    "a group norm over few groups, each of which loses two": (lambda width: nn.GroupNorm(2, width), (0, 3, 4, 7)),
    "a group norm over many groups, of which two go": (lambda width: nn.GroupNorm(width // 2, width), (2, 3, 6, 7)),
    "an instance norm": (lambda width: nn.InstanceNorm2d(width, affine=True), KEEP),
    "an instance norm with statistics": (
        lambda width: nn.InstanceNorm2d(width, affine=True, track_running_stats=True), KEEP
    ),
    "a batch norm": (nn.BatchNorm2d, KEEP),
    "a prelu": (nn.PReLU, KEEP),
}  # fmt: skip


@pytest.mark.parametrize(("norm", "kept"), NORMS.values(), ids=NORMS)
def test_norms_take_their_statistics_over_what_remains(
    norm: Callable[[int], nn.Module], kept: tuple[int, ...]
) -> None:
    def build(width: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, width, 1), norm(width), nn.SiLU(), nn.Conv2d(width, 5, 3)).eval()

    network = settled(build(8))
    slices = {name: {0: kept} for name in network.state_dict() if name.startswith(("0.", "1."))}
    slices = {name: axes for name, axes in slices.items() if "num_batches" not in name}
    slices["3.weight"] = {1: kept}
    narrow = copied(build(len(kept)), network, slices)
    torch.testing.assert_close(reference(network, slices), narrow(X).detach(), **CLOSE)


STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "a softmax over channels": lambda x: x.softmax(1),
    "a log softmax over channels": lambda x: x.log_softmax(1),
    "a mean over channels": lambda x: x - x.mean(1, keepdim=True),
    "a spread over channels": lambda x: x / x.std(1, keepdim=True),
    "the largest of channels": lambda x: x * x.amax(1, keepdim=True),
    "a length over channels": lambda x: F.normalize(x, dim=1),
    "a sum of everything": lambda x: x / x.abs().sum(),
    "a mean of everything": lambda x: x - x.mean(),
    "channels that attend to each other": lambda x: F.scaled_dot_product_attention(
        *[x.flatten(2)] * 3, scale=0.1
    ).view(x.shape),
    "positions that attend to each other": lambda x: F.scaled_dot_product_attention(
        *[x.flatten(2).mT] * 3, scale=0.1
    ).mT.reshape(x.shape),
    "a Gram matrix": lambda x: ((x.flatten(2) @ x.flatten(2).mT).tanh() @ x.flatten(2)).view(x.shape),
    "a gate of all": lambda x: x * torch.sigmoid(x.mean((1, 2, 3), keepdim=True)),
}


@pytest.mark.parametrize("function", STATISTICS.values(), ids=STATISTICS)
def test_functions_over_channels_see_what_remains(function: Callable[[Tensor], Tensor]) -> None:
    def build(width: int) -> nn.Module:
        return Function(
            lambda self, x: self.head(function(self.stem(x))),
            stem=nn.Conv2d(3, width, 3),
            head=nn.Conv2d(width, 5, 1),
        ).eval()

    network = settled(build(8))
    slices: Slices = {"stem.weight": {0: KEEP}, "stem.bias": {0: KEEP}, "head.weight": {1: KEEP}}
    narrow = copied(build(len(KEEP)), network, slices)
    torch.testing.assert_close(reference(network, slices), narrow(X).detach(), **CLOSE)


def test_a_recurrent_layer_runs_on_the_hidden_units_that_remain() -> None:
    def build(width: int, hidden: int) -> nn.Module:
        return Function(
            lambda self, x: self.head(self.memory(self.stem(x).flatten(2).mT)[0]),
            stem=nn.Conv2d(3, width, 3, 3),
            memory=nn.LSTM(width, hidden, batch_first=True),
            head=nn.Linear(hidden, 5),
        ).eval()

    network = settled(build(8, 6))
    hidden = (1, 3, 4)
    rows = tuple(6 * gate + unit for gate in range(4) for unit in hidden)
    slices: Slices = {
        "stem.weight": {0: KEEP},
        "stem.bias": {0: KEEP},
        "memory.weight_ih_l0": {0: rows, 1: KEEP},
        "memory.weight_hh_l0": {0: rows, 1: hidden},
        "memory.bias_ih_l0": {0: rows},
        "memory.bias_hh_l0": {0: rows},
        "head.weight": {1: hidden},
    }
    narrow = copied(build(4, 3), network, slices)
    torch.testing.assert_close(reference(network, slices), narrow(X).detach(), **CLOSE)


def test_attention_of_torch_runs_on_the_width_that_remains_with_the_teachers_scale() -> None:
    network = settled(
        Function(
            lambda self, x: self.head(self.look(*[self.stem(x).flatten(2).mT] * 3, need_weights=False)[0]),
            stem=nn.Conv2d(3, 8, 3, 3),
            look=nn.MultiheadAttention(8, 2, batch_first=True),
            head=nn.Linear(8, 5),
        ).eval()
    )
    inside = (0, 2, 3)  # of the four positions of each head
    heads = tuple(4 * head + position for head in range(2) for position in inside)
    rows = tuple(8 * part + index for part in range(3) for index in heads)
    slices: Slices = {
        "look.in_proj_weight": {0: rows},
        "look.in_proj_bias": {0: rows},
        "look.out_proj.weight": {1: heads},
    }
    state = network.state_dict()
    tokens = F.conv2d(X, state["stem.weight"], state["stem.bias"], 3).flatten(2).mT
    qkv = F.linear(tokens, state["look.in_proj_weight"][list(rows)], state["look.in_proj_bias"][list(rows)])
    q, k, v = (part.unflatten(-1, (2, 3)).transpose(1, 2) for part in qkv.chunk(3, -1))
    weights = (q @ k.mT * 4**-0.5).softmax(-1)  # four, not three: the scale is the teacher's
    found = (weights @ v).transpose(1, 2).flatten(2)
    found = F.linear(found, state["look.out_proj.weight"][:, list(heads)], state["look.out_proj.bias"])
    expected = F.linear(found, state["head.weight"], state["head.bias"])
    torch.testing.assert_close(reference(network, slices), expected, **CLOSE)


# --- Where channels are only summed, silence is weights set to zero.

PLAIN: dict[str, tuple[Callable[[], nn.Module], dict[str, tuple[int, tuple[int, ...]]]]] = {
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 5, 3)),
        {"0.weight": (0, KEEP), "0.bias": (0, KEEP), "2.weight": (1, KEEP)},
    ),
    "convolutions with a batch norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Softplus(), nn.Conv2d(8, 5, 3)),
        {
            **dict.fromkeys(("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"), (0, KEEP)),
            "3.weight": (1, KEEP),
        },
    ),
    "a flattened picture": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 8), nn.Hardsigmoid(), nn.Flatten(), nn.Linear(8, 5)),
        {"0.weight": (0, KEEP), "0.bias": (0, KEEP), "3.weight": (1, KEEP)},
    ),
    "a transposed convolution": (
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 8, 2), nn.Sigmoid(), nn.Conv2d(8, 5, 1)),
        {"0.weight": (1, KEEP), "0.bias": (0, KEEP), "2.weight": (1, KEEP)},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "cuts"), PLAIN.values(), ids=PLAIN)
def test_silence_is_a_zero_in_every_weight_that_reads_a_removed_channel(
    make: Callable[[], nn.Module], cuts: dict[str, tuple[int, tuple[int, ...]]]
) -> None:
    network = settled(make())
    slices = {name: {axis: kept} for name, (axis, kept) in cuts.items()}
    silent = copy.deepcopy(network)
    reader, (axis, kept) = list(cuts.items())[-1]
    gone = [index for index in range(8) if index not in kept]
    silent.get_parameter(reader).data[(slice(None),) * axis + (gone,)] = 0
    torch.testing.assert_close(reference(network, slices), silent(X).detach(), **CLOSE)


def test_a_residual_sum_is_silent_where_it_is_read_and_not_where_it_is_made() -> None:
    network = settled(
        Function(
            lambda self, x: self.head(torch.sigmoid(self.one(x) + self.two(x))),
            one=nn.Conv2d(3, 8, 1),
            two=nn.Conv2d(3, 8, 1),
            head=nn.Conv2d(8, 5, 1),
        ).eval()
    )
    slices = {f"{name}.{key}": {0: KEEP} for name in ("one", "two") for key in ("weight", "bias")}
    slices["head.weight"] = {1: KEEP}
    made = copy.deepcopy(network)
    gone = [1, 4, 5, 7]
    for layer in (made.one, made.two):
        layer.weight.data[gone], layer.bias.data[gone] = 0, 0
    read = copy.deepcopy(network)
    read.head.weight.data[:, gone] = 0
    found = reference(network, slices)
    torch.testing.assert_close(found, read(X).detach(), **CLOSE)
    assert not torch.allclose(found, made(X))  # a sigmoid of nothing still speaks


def test_what_is_removed_may_be_infinite() -> None:
    network = settled(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)))
    network[0].bias.data[1] = float("inf")
    slices: Slices = {"0.weight": {0: KEEP}, "0.bias": {0: KEEP}, "1.weight": {1: KEEP}}
    assert reference(network, slices).isfinite().all()


def test_nothing_removed_is_the_network_itself() -> None:
    network = settled(
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.Conv2d(8, 5, 1))
    )
    assert torch.equal(reference(network, {}), network(X).detach())


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_on_batch_statistics_norms_see_the_batch(norm: type[nn.Module]) -> None:
    network = settled(nn.Sequential(nn.Conv2d(3, 8, 1), norm(8, affine=True), nn.Conv2d(8, 5, 1)))
    slices = {name: {0: KEEP} for name in network.state_dict() if name[0] in "01" and "num_b" not in name}
    slices["2.weight"] = {1: KEEP}
    narrow = nn.Sequential(nn.Conv2d(3, 4, 1), norm(4, affine=True), nn.Conv2d(4, 5, 1))
    narrow = copied(narrow, network, slices).train()
    tensors = {name: tensor.clone() for name, tensor in named_tensors(network).items()}
    (found,) = silenced(walk(network, inputs_of(X)), slices, tensors, [X], batch_statistics=True)
    torch.testing.assert_close(found.detach(), narrow(X).detach(), **CLOSE)
