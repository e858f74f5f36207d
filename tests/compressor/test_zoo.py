"""Published architectures, by the dozen: traced, half of the MACs chosen by lot, cut, proven, counted.

The fast set has the smallest of every family; all the others run with ``-m slow``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from compressor.budget.allocate import CLOSE, allocate
from compressor.budget.request import Budget
from compressor.cutting import cut
from compressor.graph.trace import trace
from compressor.models import ModelSource, build
from compressor.proof import check_cut
from compressor.saliency.scores import Scores
from profiles import count
from tests.compressor.networks import images, proven

FAMILIES = ("resnet", "vgg", "densenet", "mobilenet", "efficientnet", "wide_resnet", "resnext")
FAST = """resnet18 vgg11_small densenet121 mobilenet_v2 mobilenet_v3_small efficientnet_b0 resnext50_32x4d
googlenet squeezenet1_1 shufflenet_v2_x0_5 mnasnet0_5 regnet_y_400mf""".split()
SLOW = [
    name
    for name in models.list_models(module=models)
    if name.startswith((*FAMILIES, "regnet", "shufflenet", "mnasnet", "convnext", "inception", "alexnet"))
    and name not in (*FAST, "regnet_y_128gf")  # 645 million parameters: five gigabytes in float64, twice
]


def network_named(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "vgg11_small":
        # Nothing but its two hidden layers of 4096 units is left out: they take nine tenths of the time.
        network = build(ModelSource("vgg11", 10))
        network.classifier = nn.Sequential(nn.Linear(512 * 49, 64), nn.ReLU(), nn.Linear(64, 10))
        return network.eval()
    return build(ModelSource(name))


def cut_part_of_the_macs(network: nn.Module, remove: float = 0.5, side: int = 32) -> tuple[str, ...]:
    inputs = images(4, side=side)
    graph = trace(network, inputs[:1])
    rng = np.random.default_rng(0)
    scores = Scores("by lot", {group.name: rng.random(group.units) for group in graph.groups})
    plan = allocate(graph, scores, Budget(remove, keep_at_least=0.0)).plan
    student = cut(network, plan)
    assert abs(plan.removed("macs") - remove) <= CLOSE
    checks = check_cut(network, student, plan, (inputs,))
    assert proven(checks), checks
    counted = count(student, (inputs,))
    assert (plan.costs["macs"][1], plan.costs["params"][1]) == (counted.macs, counted.params)
    assert student(inputs).shape == network(inputs).shape
    return tuple(sorted({item.operator for item in graph.unsupported}))


@pytest.mark.parametrize("name", FAST)
def test_the_smallest_of_every_family_is_cut_in_half(name: str) -> None:
    assert cut_part_of_the_macs(network_named(name)) == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_member_of_the_families_is_cut_in_half(name: str) -> None:
    unsupported = cut_part_of_the_macs(network_named(name), side=96 if name == "inception_v3" else 64)
    assert unsupported == (("as_strided_",) if name.startswith("convnext") else ())


def small_vision_transformer() -> nn.Module:
    return models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=4, hidden_dim=32, mlp_dim=256, num_classes=5
    )


def small_swin() -> nn.Module:
    return models.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=5)


@pytest.mark.parametrize(
    "make",
    [
        small_vision_transformer,
        pytest.param(
            lambda: models.vit_b_16(image_size=32, num_classes=5), marks=pytest.mark.slow, id="vit_b_16"
        ),
    ],
)
def test_a_vision_transformer_is_cut_inside_its_blocks(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = make().eval()
    nn.init.normal_(network.heads.head.weight)  # published with zeros, and a zero output proves nothing
    cut_part_of_the_macs(network, remove=0.3)


@pytest.mark.parametrize(
    "make",
    [small_swin, pytest.param(lambda: models.swin_t(num_classes=5), marks=pytest.mark.slow, id="swin_t")],
)
def test_a_shifted_window_transformer_is_cut_as_far_as_its_rules_reach(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    unsupported = cut_part_of_the_macs(make().eval(), remove=0.1)
    assert unsupported  # not every operator of its windows has a rule, and those are named


@pytest.mark.parametrize(
    ("name", "groups"),
    [("resnet50", 37), ("mobilenet_v2", 25), ("densenet121", 120), ("efficientnet_b0", 40)],
)
def test_the_number_of_groups_of_known_networks(name: str, groups: int) -> None:
    with torch.device("meta"):
        network = models.get_model(name)
    assert len(trace(network, images(1, side=64)).groups) == groups
