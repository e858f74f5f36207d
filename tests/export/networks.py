"""Small real networks, one for each thing that an exporter can get wrong."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Convolution, batch norm, in-place relu, a shortcut that is added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding="same")  # with a bias, padding as a word
        self.bn2 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)) + x)
        return self.head(x.mean((2, 3)))


class DepthwiseWithGate(nn.Module):
    """A grouped convolution and a squeeze-and-excite gate."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(3, 6, 3, stride=2, groups=3, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 2, 1), nn.SiLU(), nn.Conv2d(2, 6, 1), nn.Sigmoid()
        )
        self.head = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.bn(self.depthwise(x)))
        return self.head(x * self.gate(x)).amax((2, 3))


class FlattenAndLinear(nn.Module):
    """Channels meet a linear layer through a flatten, with dropout and a batch norm of one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(36, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class NothingToFoldInto(nn.Module):
    """A batch norm before its convolution, and one convolution under two batch norms.

    Folding either of the two into the shared weights would change what the other one gets.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.shared = nn.Conv2d(3, 3, 3, padding=1)
        self.left = nn.BatchNorm2d(3)
        self.right = nn.BatchNorm2d(3, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.left(self.shared(x)))
        return self.right(self.shared(x)).flatten(1)


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.bn(self.conv(x))  # an output by itself: the graph's last node
        return x.sum((2, 3)), x


class Asks(nn.Module):
    """Control flow that depends on the data."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Decomposes(nn.Module):
    """An operator that ONNX does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svd(x.flatten(2))[1]


class FixesBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1) * 2


def inside(layer: nn.Module) -> nn.Module:
    """A network with ``layer`` at ``features.1``, the name that a message must have."""
    outer = nn.Module()
    outer.features = nn.Sequential(nn.Conv2d(3, 3, 3), layer)
    outer.forward = outer.features.forward  # type: ignore[method-assign]
    return outer


def settled(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in train mode, with batch norm statistics that differ from the defaults."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            for tensor, low in ((layer.running_mean, -1.0), (layer.running_var, 0.5)):
                assert tensor is not None
                tensor.uniform_(low, 2.0, generator=generator)
            if layer.affine:
                nn.init.uniform_(layer.weight, 0.5, 2.0, generator=generator)
                nn.init.uniform_(layer.bias, -1.0, 1.0, generator=generator)
    return network.train()


def of_one_batch(path: Path, batch: int) -> Path:
    """Copy a file as another exporter would write it: for one batch, without our metadata and names."""
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del model.metadata_props[:], model.graph.value_info[:]
    model.producer_name = "someone"
    other = path.with_name(f"batch{batch}.onnx")
    onnx.save(onnx.shape_inference.infer_shapes(model), other)
    return other
