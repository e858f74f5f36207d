from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
import torch
import torchvision.models as zoo
from torch import Tensor, nn
from torch.nn.utils import prune
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models

from compressor.errors import ProfileError
from compressor.profiling import Counts, LayerCount, count

SMALL_FAMILIES = (
    "resnet18",
    "mobilenet_v2",
    "densenet121",
    "efficientnet_b0",
    "shufflenet_v2_x0_5",
    "vit_b_16",
    "swin_t",
    "squeezenet1_1",
)
EVERY_WEIGHT = [
    pytest.param(name, weights, id=f"{name}-{weights.name}")
    for name in list_models(module=zoo)
    for weights in get_model_weights(name)
]


def built(name: str, size: int) -> nn.Module:
    """Build the architecture without random weights: on meta, if its initialiser runs there."""
    options: dict[str, Any] = {}
    if name.startswith("vit_"):
        options["image_size"] = size
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    if name == "googlenet":  # its published number of parameters is without the two aux heads
        options["aux_logits"] = False
    try:
        with torch.device("meta"):
            return get_model(name, **options)
    except (NotImplementedError, RuntimeError):
        return get_model(name, **options)


def assert_reproduces_what_torchvision_published(name: str, weights: WeightsEnum) -> None:
    size = weights.transforms().crop_size[0]
    counted = count(built(name, size), (torch.empty(1, 3, size, size, device="meta"),))
    assert counted.counter == "meta", counted.fallback_reason
    assert abs(counted.macs / 1e9 - weights.meta["_ops"]) <= 0.0005  # published to 3 digits
    assert counted.params == weights.meta["num_params"]
    assert_layers_sum_to_the_totals(counted)


def assert_layers_sum_to_the_totals(counted: Counts) -> None:
    assert sum(layer.macs for layer in counted.layers) == counted.macs
    assert sum(layer.params for layer in counted.layers) == counted.params


def row(counted: Counts, name: str) -> LayerCount:
    return next(layer for layer in counted.layers if layer.name == name)


@pytest.mark.parametrize("name", SMALL_FAMILIES)
def test_counts_are_the_published_ones(name: str) -> None:
    assert_reproduces_what_torchvision_published(name, get_model_weights(name).DEFAULT)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "weights"), EVERY_WEIGHT)
def test_counts_are_the_published_ones_for_every_weight(name: str, weights: WeightsEnum) -> None:
    assert_reproduces_what_torchvision_published(name, weights)


def test_a_layer_has_the_multiply_adds_of_the_formula() -> None:
    net = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(6 * 36, 5))
    counted = count(net, (torch.randn(1, 4, 8, 8),))
    assert row(counted, "0") == LayerCount(
        "0", "Conv2d", 6 * 36 * 2 * 9, 6 * 2 * 9 + 6, (1, 6, 6, 6), 4 * (256 + 216)
    )
    assert row(counted, "2") == LayerCount("2", "Linear", 216 * 5, 216 * 5 + 5, (1, 5), 4 * (216 + 5))
    assert row(counted, "1").output_shape == (1, 216)
    assert counted.macs == 6 * 36 * 2 * 9 + 216 * 5
    assert counted.flops == 2 * counted.macs


def test_one_sample_is_counted_whatever_the_batch() -> None:
    counted = count(nn.Bilinear(3, 4, 5), (torch.randn(7, 3), torch.randn(7, 4)))
    assert counted.input_shapes == ((1, 3), (1, 4))
    net = nn.Linear(3, 4)
    assert count(net, (torch.randn(7, 3),)) == count(net, (torch.randn(1, 3),))


def test_work_outside_any_leaf_belongs_to_its_parent() -> None:
    class Gram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(8, 6)
            self.query = nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            y = self.project(x)
            return (y @ y.transpose(1, 2)).sum(1) @ y[0] @ self.query

    counted = count(nn.Sequential(Gram(), nn.Identity()), (torch.randn(1, 5, 8),))
    assert row(counted, "0.project").macs == 5 * 8 * 6
    assert row(counted, "0").macs == 5 * 6 * 5 + 5 * 6 + 6
    assert row(counted, "0").params == 6
    assert_layers_sum_to_the_totals(counted)


def test_a_shared_layer_works_twice_and_is_stored_once() -> None:
    shared = nn.Linear(4, 4, bias=False)
    tied = nn.Linear(4, 4, bias=False)
    tied.weight = shared.weight
    counted = count(nn.Sequential(shared, nn.ReLU(), shared, tied), (torch.randn(1, 4),))
    assert (row(counted, "0").macs, row(counted, "0").params) == (2 * 16, 16)
    assert (row(counted, "3").macs, row(counted, "3").params) == (16, 0)
    assert counted.params == 16
    assert_layers_sum_to_the_totals(counted)


def test_bytes_are_parameters_and_buffers_in_their_dtype() -> None:
    half = nn.BatchNorm1d(10).half()  # 4 half tensors of 10, one int64 counter
    assert count(half, (torch.randn(1, 10).half(),)).bytes == 4 * 10 * 2 + 8


class ReadsValues(nn.Module):
    """A network that cannot run without data, because it reads values; it draws from the global generator."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> object:
        if x.abs().sum().item() < 0:
            raise AssertionError
        return self.inner(x + torch.rand(1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> object:
        return self.attend(x, x, x, need_weights=False)


@pytest.mark.parametrize(
    "inner",
    [
        Attention(),
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        nn.LSTM(8, 4, batch_first=True),
        nn.Conv1d(5, 6, 3),
    ],
    ids=lambda inner: type(inner).__name__,
)
def test_the_cpu_counts_what_meta_counts_and_says_why_it_was_needed(inner: nn.Module) -> None:
    x = (torch.randn(1, 5, 8),)
    on_meta, on_cpu = count(inner, x), count(ReadsValues(inner), x)
    assert (on_meta.counter, on_meta.fallback_reason) == ("meta", None)
    assert on_cpu.counter == "cpu"
    assert on_cpu.fallback_reason is not None
    assert "meta" in on_cpu.fallback_reason
    assert on_cpu.macs == on_meta.macs > 0
    assert [(at.macs, at.params, at.output_shape) for at in on_cpu.layers] == [
        (at.macs, at.params, at.output_shape) for at in on_meta.layers
    ]


@pytest.mark.parametrize("wrap", [nn.Sequential, ReadsValues], ids=["meta", "cpu"])
def test_the_callers_module_is_never_changed(wrap: Any) -> None:
    calls: list[object] = []
    net = wrap(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    net.register_forward_hook(lambda *seen: calls.append(seen))
    net.register_forward_pre_hook(lambda *seen: calls.append(seen))
    inner = next(net.children())
    inner.eval()
    parameters = dict(net.named_parameters())
    state = {key: value.clone() for key, value in net.state_dict().items()}
    grads = {key: p.grad.clone() for key, p in parameters.items() if p.grad is not None}
    modes = [part.training for part in net.modules()]
    random_state = torch.get_rng_state()

    count(net, (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),))

    assert calls == []
    assert len(net._forward_hooks) == len(net._forward_pre_hooks) == 1
    assert modes == [part.training for part in net.modules()] == [True, False, False, False]
    assert len(grads) == len(parameters) == 4
    for key, parameter in net.named_parameters():
        assert parameter is parameters[key]
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, grads[key])
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_the_switches_of_torch_are_put_back_even_after_a_failure() -> None:
    before = (torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled())
    with pytest.raises(ProfileError):
        count(nn.Linear(3, 4), (torch.randn(1, 5),))
    assert before == (torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled())
    assert before == (True, True)


@pytest.mark.parametrize(
    ("output", "shape"),
    [
        ({"loss": None, "logits": torch.ones(1, 2)}, (1, 2)),
        ((3, [torch.ones(4), torch.ones(5)]), (4,)),
        ("words", None),
    ],
    ids=["dict", "nested", "no tensor"],
)
def test_the_output_shape_is_that_of_the_first_tensor(output: object, shape: tuple[int, ...] | None) -> None:
    class Gives(nn.Module):
        def forward(self, x: Tensor) -> object:
            return output

    assert row(count(Gives(), (torch.randn(1, 2),)), "").output_shape == shape


def test_a_weight_that_a_hook_computes_can_be_counted() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        normed = nn.utils.weight_norm(nn.Linear(4, 5))
    masked = prune.l1_unstructured(nn.Linear(5, 3), "weight", amount=4)
    counted = count(nn.Sequential(normed, masked), (torch.randn(1, 4),))
    assert counted.counter == "meta", counted.fallback_reason
    assert counted.macs == 4 * 5 + 5 * 3
    assert counted.params == (20 + 5 + 5) + (15 + 3)


def test_a_network_that_cannot_take_its_inputs_is_told_so() -> None:
    with pytest.raises(ProfileError, match=r"cannot count `Linear`: .*1x5 and 3x4") as caught:
        count(nn.Linear(3, 4), (torch.randn(9, 5),))
    assert caught.value.hint is not None
    assert "(1, 5)" in caught.value.hint
    with pytest.raises(ProfileError, match="tuple of at least one tensor"):
        count(nn.Linear(3, 4), torch.randn(1, 3))  # type: ignore[arg-type]


def test_counts_survive_json() -> None:
    counted = count(nn.Linear(3, 4), (torch.randn(2, 3),))
    read = json.loads(json.dumps(counted.to_dict()))
    assert (read["macs"], read["flops"], read["params"], read["bytes"]) == (12, 24, 16, 64)
    row = {
        "name": "",
        "kind": "Linear",
        "macs": 12,
        "params": 16,
        "output_shape": [1, 4],
        "activation_bytes": 28,
    }
    assert read["layers"] == [row]
    assert read["activation_bytes"] == 28
    assert (read["counter"], read["input_shapes"]) == ("meta", [[1, 3]])
