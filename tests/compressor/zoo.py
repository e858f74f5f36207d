"""Published networks by name, and what is asked of a cut of one: shared by ``test_zoo.py`` and ``benchmarks/zoo.py``.

Weights are random. Whatever a network is born with as zero or one (norms, statistics, biases, layer scales, some
heads) is drawn by lot too, because a channel that is forgotten does not show on zeros. Images are as small as the
network allows.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import models

from compressor.base.checks import Check
from compressor.errors import CompressError, UsageError
from compressor.profiling import count
from compressor.pruning.cutting import cut, form_of
from compressor.pruning.cutting.proof import TOLERANCE, check_cut
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.graph.recording.operation import tensors_in
from compressor.pruning.scoring.score import score
from compressor.pruning.scoring.scores import Scores
from compressor.pruning.widths.allocate import CLOSE, allocate
from compressor.pruning.widths.plan import Plan
from compressor.recipe.budget import Budget

Images = tuple[Tensor, ...]

SIDES = {
    "inception_v3": 96,
    "ssd300_vgg16": 300,
    "maxvit_t": 224,
    "s3d": 224,
    "mvit_v1_b": 224,
    "mvit_v2_s": 224,
    "raft_small": 128,
    "raft_large": 128,
}
"""Of torchvision's networks that do not run on 64 pixels."""
FRAMES = {"s3d": 16, "mvit_v1_b": 16, "mvit_v2_s": 16}


@dataclass(frozen=True)
class Outcome:
    """One cut: what came of it, and everything that is wrong with it. Out of reach or refused, it was not made."""

    removed: float = 0.0
    form: str = ""
    relative_error: float = 0.0
    cut_ms: float = 0.0
    faults: tuple[str, ...] = ()
    out_of_reach: str | None = None
    refused: str | None = None


def by_lot(graph: ChannelGraph) -> Scores:
    rng = np.random.default_rng(0)
    return Scores("by lot", {group.name: rng.random(group.units) for group in graph.groups})


def by_magnitude(network: nn.Module, graph: ChannelGraph) -> Scores:
    return score(network, graph, "l2")


def cut_and_check(
    network: nn.Module,
    graph: ChannelGraph,
    scores: Scores,
    remove: float,
    inputs: Images,
    batches: Sequence[int],
) -> Outcome:
    """Remove this share of the MACs; compare with the teacher on batches of these sizes; count; send gradients back.

    A refusal (CompressError) or a crash before there is a cut network is the caller's to see.
    """
    try:
        allocation = allocate(graph, scores, Budget(remove, keep_at_least=0.0))
    except UsageError as error:
        return Outcome(out_of_reach=str(error))
    plan = allocation.plan
    start = time.perf_counter()
    student = cut(network, plan)
    cut_ms = 1e3 * (time.perf_counter() - start)
    errors, faults = [0.0], []
    for batch in batches:
        try:
            checks = check_cut(network, student, plan, first(inputs, batch))
        except CompressError as error:
            faults.append(f"batch {batch}: {error}")
            continue
        for check in checks:
            errors.append(relative(check))
            if errors[-1] > TOLERANCE or not check.passed:
                faults.append(f"batch {batch}: {check.name}: off by {errors[-1]:.1e} {check.detail}".strip())
    if abs(plan.removed("macs") - remove) > CLOSE and allocation.missed is None:
        faults.append(
            f"removed {plan.removed('macs'):.1%} of the MACs instead of {remove:.0%}, and no reason given"
        )
    counted = count(student, first(inputs, 1))
    planned = plan.costs["macs"][1], plan.costs["params"][1]
    if planned != (counted.macs, counted.params):
        faults.append(f"planned MACs and parameters {planned}, counted {counted.macs, counted.params}")
    faults.extend(_misshapen(network, student, plan))
    unreached = without_gradient(student, inputs)
    if unreached and (more := unreached - without_gradient(copy.deepcopy(network), inputs)):
        faults.append(f"no gradient reaches {', '.join(sorted(more))}")
    return Outcome(plan.removed("macs"), form_of(student), max(errors), cut_ms, tuple(faults))


def relative(check: Check) -> float:
    """The error relative to the largest output; of nothing but zeros it proves nothing."""
    return check.max_abs_error / check.tolerance * TOLERANCE if check.tolerance else math.inf


def _misshapen(network: nn.Module, student: nn.Module, plan: Plan) -> Iterator[str]:
    after = {name: tuple(tensor.shape) for name, tensor in student.state_dict().items()}
    parameters = {name for name, _ in network.named_parameters()}
    for name, tensor in network.state_dict().items():
        kept = plan.slices.get(name, {})
        expected = tuple(len(kept[axis]) if axis in kept else size for axis, size in enumerate(tensor.shape))
        if name in after and after[name] != expected:
            yield f"`{name}` has shape {after[name]}, planned {expected}"
        if name not in after and name in parameters and name in plan.slices:
            yield f"`{name}` is missing"


def without_gradient(network: nn.Module, inputs: Images) -> set[str]:
    """The parameters that a backward pass through all outputs does not reach, in training mode."""
    network.train()
    outputs = [output for output in tensors_in(network(*inputs)) if output.is_floating_point()]
    sum(output.square().mean() for output in outputs).backward()
    network.eval()
    return {name for name, parameter in network.named_parameters() if parameter.grad is None}


def first(inputs: Images, samples: int) -> Images:
    return tuple(each[:samples] for each in inputs)


def at_random(network: nn.Module) -> nn.Module:
    """Nothing zero, nothing one, no head so small that its output proves nothing."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if max(parameter.shape, default=1) == parameter.numel():
            parameter.data.uniform_(0.5, 1.5, generator=generator)
        elif parameter.std() < 2e-3:
            parameter.data.normal_(0, 0.02, generator=generator)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.5, 0.5, generator=generator)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def network_named(name: str, samples: int = 3, **options: object) -> tuple[nn.Module, Images]:
    """``torchvision:NAME`` or ``timm:NAME`` built with these options, and inputs of this many samples."""
    torch.manual_seed(0)
    source, _, name = name.partition(":")
    network, shapes = (_timm if source == "timm" else _torchvision)(name, options)
    return at_random(network), tuple(torch.randn(samples, *shape) for shape in shapes)


def _torchvision(name: str, options: dict[str, object]) -> tuple[nn.Module, list[tuple[int, ...]]]:
    kind = models.get_model_builder(name).__module__.split(".")[2]
    side = SIDES.get(name, 32 if kind == "video" else 64)
    image = (3, side, side)
    if kind == "segmentation" and not name.startswith("lraspp"):
        options = {"aux_loss": True, **options}
    elif kind == "vision_transformer":
        side = 4 * int(name.rpartition("_")[2])
        options, image = {"image_size": side, **options}, (3, side, side)
    elif name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": False, **options}
    if kind in ("segmentation", "detection"):
        options = {"weights_backbone": None, **options}
    network = models.get_model(name, **options)
    if kind == "detection":
        return _detector(network, image)
    if kind == "optical_flow":
        return FewUpdates(network), [image, image]
    return network, [(3, FRAMES.get(name, 8), side, side) if kind == "video" else image]


class FewUpdates(nn.Module):
    """RAFT with two rounds of its recurrent update instead of twelve."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, one: Tensor, other: Tensor) -> list[Tensor]:
        return self.network(one, other, num_flow_updates=2)


class OneStage(nn.Module):
    """A one-stage detector up to its dense predictions: what comes after them depends on their values."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.head(_listed(self.backbone(x)))


class TwoStage(nn.Module):
    """The dense parts of an R-CNN. Regions are pooled by value, so that pooled tensors are further inputs.

    The features are outputs too: the pooling reads them, at the width that the second stage expects.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        heads = detector.roi_heads
        self.backbone, self.head = detector.backbone, detector.rpn.head
        self.box = nn.Sequential(heads.box_head, heads.box_predictor)
        self.further = nn.ModuleList(
            nn.Sequential(getattr(heads, f"{kind}_head"), getattr(heads, f"{kind}_predictor"))
            for kind in ("mask", "keypoint")
            if getattr(heads, f"{kind}_head", None) is not None
        )

    def forward(self, x: Tensor, boxes: Tensor, *regions: Tensor) -> list[object]:
        features = _listed(self.backbone(x))
        second = [
            self.box(boxes),
            *(head(region) for head, region in zip(self.further, regions, strict=True)),
        ]
        return [features, self.head(features), *second]


def _detector(detector: nn.Module, image: tuple[int, ...]) -> tuple[nn.Module, list[tuple[int, ...]]]:
    if not hasattr(detector, "roi_heads"):
        return OneStage(detector), [image]
    network = TwoStage(detector)
    width = detector.backbone.out_channels
    return network, [image, (width, 7, 7), *[(width, 14, 14)] * len(network.further)]


def _listed(features: object) -> list[Tensor]:
    return list(features.values()) if isinstance(features, dict) else [features]


def _timm(name: str, options: dict[str, object]) -> tuple[nn.Module, list[tuple[int, ...]]]:
    create = import_module("timm").create_model
    with torch.device("meta"):
        config = create(name, **options).pretrained_cfg
    channels, side, _ = config["input_size"]
    fixed = config.get("fixed_input_size")
    least = config.get("min_input_size", (channels, 128, 128))[-1]
    for smaller in (112,) if fixed else (64, 96, least):
        sized = {**options, "img_size": smaller} if fixed else options
        try:
            network = create(name, **sized).eval()
            with torch.no_grad():
                network(torch.zeros(1, channels, smaller, smaller))
        except Exception:  # whatever its code has against that size
            continue
        return network, [(channels, smaller, smaller)]
    return create(name, **options), [(channels, side, side)]
