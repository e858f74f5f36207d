"""Published architectures, by the dozen: traced, half of the MACs chosen by lot, cut, proven, counted, trained on.

The fast set has a small network of every kind of structure; all the others run with ``-m slow``, and with more cuts
of each in ``benchmarks/zoo.py``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from compressor.models.names import ModelSource, build
from compressor.pruning.graph.trace import trace
from tests.compressor.networks import images
from tests.compressor.zoo import Images, at_random, by_lot, by_magnitude, cut_and_check, first, network_named

FAST = """resnet18 densenet121 mobilenet_v2 mobilenet_v3_small efficientnet_b0 resnext50_32x4d googlenet squeezenet1_1
shufflenet_v2_x0_5 mnasnet0_5 regnet_y_400mf lraspp_mobilenet_v3_large ssdlite320_mobilenet_v3_large
fasterrcnn_mobilenet_v3_large_320_fpn raft_small""".split()
FAST_TIMM: dict[str, dict[str, Any]] = {
    "res2next50": {"layers": (1, 1, 1, 1)},
    "skresnet18": {},
    "nf_seresnet26": {},
    "resnetv2_50x1_bit": {},
    "ghostnet_050": {},
    "levit_128s": {},
    "deit_tiny_patch16_224": {"depth": 2},
    "xcit_nano_12_p8_224": {"depth": 2},
    "sequencer2d_s": {"layers": (1, 1, 1, 1)},
    "efficientvit_b0": {},
}
LARGE = 100e6  # parameters: minutes and gigabytes in float64
SLOW = [
    name
    for module in (models, models.segmentation, models.detection, models.optical_flow, models.video)
    for name in models.list_models(module=module)
    if name not in FAST and not name.startswith("mvit")  # 16 frames of 224 pixels and nothing less
    and all(weights.meta["num_params"] < LARGE for weights in models.get_model_weights(name))
]  # fmt: skip
SLOW_TIMM = """mobileone_s1 cait_xxs24_224 coat_tiny convit_tiny convnextv2_atto crossvit_tiny_240 cs3darknet_focus_s
davit_tiny dla60x dpn68 edgenext_xx_small efficientformer_l1 efficientformerv2_s0 eva02_tiny_patch14_224
fastvit_s12 focalnet_tiny_srf gcvit_xxtiny gmlp_ti16_224 hgnetv2_b0 hiera_tiny_224 hrnet_w18_small
inception_next_atto mambaout_femto mobilevit_xxs mvitv2_tiny nest_tiny pit_ti_224 pvt_v2_b0
resnest50d_1s4x24d rexnet_100 selecsls42 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224
twins_svt_small visformer_tiny volo_d1_224""".split()


def half_goes(network: nn.Module, inputs: Images) -> None:
    graph = trace(network, first(inputs, 1))
    outcome = cut_and_check(network, graph, by_lot(graph), 0.5, inputs, batches=(1, 3))
    assert outcome.out_of_reach is None
    assert outcome.faults == ()


@pytest.mark.parametrize("name", FAST)
def test_half_of_a_published_network_goes_and_the_rest_is_exact(name: str) -> None:
    half_goes(*network_named(f"torchvision:{name}"))


@pytest.mark.parametrize("name", FAST_TIMM)
def test_half_of_a_network_from_timm_goes_and_the_rest_is_exact(name: str) -> None:
    pytest.importorskip("timm")
    half_goes(*network_named(f"timm:{name}", **FAST_TIMM[name]))


def small_vgg() -> tuple[nn.Module, Images]:
    # Nothing but its two hidden layers of 4096 units is left out: they take nine tenths of the time.
    network = build(ModelSource("vgg11", 10))
    network.classifier = nn.Sequential(nn.Linear(512 * 49, 64), nn.ReLU(), nn.Linear(64, 10))
    return network, (images(3, side=32),)


def small_vision_transformer() -> tuple[nn.Module, Images]:
    network = models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=4, hidden_dim=32, mlp_dim=256, num_classes=5
    )
    return network, (images(3, side=32),)


def small_swin() -> tuple[nn.Module, Images]:
    return models.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=5), (images(3, side=32),)


def small_convnext() -> tuple[nn.Module, Images]:
    blocks = [models.convnext.CNBlockConfig(16, 32, 2), models.convnext.CNBlockConfig(32, None, 2)]
    return models.ConvNeXt(blocks, num_classes=5), (images(3, side=32),)


def short_clip() -> tuple[nn.Module, Images]:
    return models.video.r3d_18(num_classes=5), (torch.randn(3, 3, 4, 32, 32),)


SMALLER = (small_vgg, small_vision_transformer, small_swin, small_convnext, short_clip)


@pytest.mark.parametrize("make", SMALLER, ids=lambda make: make.__name__)
def test_half_of_a_smaller_version_goes_and_the_rest_is_exact(make: Any) -> None:
    torch.manual_seed(0)
    network, inputs = make()
    half_goes(at_random(network), inputs)


@pytest.mark.parametrize("remove", [0.3, 0.7])
def test_scores_by_magnitude_are_cut_to_any_share(remove: float) -> None:
    network, inputs = network_named("torchvision:mobilenet_v3_small")
    graph = trace(network, first(inputs, 1))
    outcome = cut_and_check(network, graph, by_magnitude(network, graph), remove, inputs, batches=(3,))
    assert outcome.faults == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_half_of_every_other_network_of_torchvision_goes(name: str) -> None:
    half_goes(*network_named(f"torchvision:{name}"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_TIMM)
def test_half_of_one_of_every_other_family_of_timm_goes(name: str) -> None:
    pytest.importorskip("timm")
    half_goes(*network_named(f"timm:{name}"))


@pytest.mark.parametrize(
    ("name", "groups"),
    [("resnet50", 37), ("mobilenet_v2", 25), ("densenet121", 120), ("efficientnet_b0", 40)],
)
def test_the_number_of_groups_of_known_networks(name: str, groups: int) -> None:
    with torch.device("meta"):
        network = models.get_model(name)
    assert len(trace(network, images(1, side=64)).groups) == groups
