"""VGG16 with batch norms as papers on pruning use it for 32 × 32 pixels, and a teacher of that kind trained here.

    python recipes/vgg16_bn.py --data-root DATA --out vgg16-bn.safetensors

trains it on CIFAR-10 for 150 epochs by labels. 14.98 million parameters, 313 million MACs; the cascade's paper
(Miles and Mikolajczyk 2020) starts from 93.26 %.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from compressor.base.device import choose_device
from compressor.data import load_data
from compressor.recipe import DataRecipe
from compressor.training import Progress, Schedule, train

WIDTHS = (
    64,
    64,
    "pool",
    128,
    128,
    "pool",
    256,
    256,
    256,
    "pool",
    512,
    512,
    512,
    "pool",
    512,
    512,
    512,
    "pool",
)


class VGG16(nn.Module):
    """Thirteen convolutions, each with a batch norm, and two linear layers."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in WIDTHS:
            if isinstance(width, int):
                layers += [
                    nn.Conv2d(channels, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
                channels = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(channels, 512), nn.ReLU(), nn.Linear(512, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data-root", required=True, help="where CIFAR-10 lies, or is put with --download")
    options.add_argument("--download", action="store_true")
    options.add_argument("--epochs", type=int, default=150)
    options.add_argument("--out", type=Path, required=True)
    given = options.parse_args()
    data = load_data(DataRecipe("cifar10", root=given.data_root, download=given.download), 0)
    schedule = Schedule(epochs=given.epochs, warmup_epochs=min(1.0, given.epochs / 20), test_every=10)
    trained = train(VGG16(), data, schedule, device=choose_device("auto"), progress=shown)
    save_file(trained.network.cpu().state_dict(), given.out)
    print(f"{trained.accuracy:.2%}: {given.out}")


def shown(now: Progress) -> None:
    if now.over:
        right = "" if now.accuracy is None else f", top-1 {now.accuracy:.2%}"
        print(f"epoch {now.epoch}/{now.epochs}: loss {now.loss:.3f}{right}", flush=True)


if __name__ == "__main__":
    main()
