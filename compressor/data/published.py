"""Well-known small data sets, read by torchvision and kept in memory as bytes.

Files are downloaded only with ``data.download``. CIFAR's original files are pickles; torchvision
compares their checksums with those of the authors before it opens them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchvision import datasets

from compressor.data.augment import NONE, Policy, policy_named
from compressor.data.in_memory import Augment, TensorSplit, crop_and_flip
from compressor.data.scaling import Scaling, chosen_scaling
from compressor.data.split import Data
from compressor.errors import CompressError, UsageError

if TYPE_CHECKING:
    from compressor.recipe import DataRecipe


@dataclass(frozen=True)
class Published:
    """A data set of torchvision: its reader, its folder under the root, its usual scaling and augmentation."""

    reader: Callable[..., Any]
    folder: str
    scaling: Scaling
    augment: Augment | None = None


CIFAR10 = Published(
    datasets.CIFAR10,
    "cifar-10-batches-py",
    Scaling((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    crop_and_flip,
)
CIFAR100 = Published(
    datasets.CIFAR100,
    "cifar-100-python",
    Scaling((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    crop_and_flip,
)
MNIST = Published(datasets.MNIST, "MNIST/raw", Scaling((0.1307,), (0.3081,)))
FASHION_MNIST = Published(datasets.FashionMNIST, "FashionMNIST/raw", Scaling((0.2860,), (0.3530,)))


PUBLISHED = {"cifar10": CIFAR10, "cifar100": CIFAR100, "mnist": MNIST, "fashion-mnist": FASHION_MNIST}


def load_published(published: Published, wanted: DataRecipe) -> Data:
    """Load both halves of a published data set.

    Grey images have one channel. If the recipe's means and standard deviations have three values, as for a
    network made for colour images, the grey channel is repeated three times.
    """
    if not wanted.root:
        raise UsageError(
            f"data set `{wanted.name}` needs a folder for its files",
            "data.root=FOLDER in the recipe or by --set, and data.download=true if they are not there yet",
        )
    root = Path(wanted.root).expanduser()
    train, test = (_read(published, root, train, wanted) for train in (True, False))
    images = _images(train.data)
    usual, channels = published.scaling, images.shape[1]
    if channels == 1 and wanted.normalise and len(wanted.normalise[0]) == 3:
        usual, channels = Scaling(usual.mean * 3, usual.std * 3), 3
    scaling = chosen_scaling(usual, wanted.normalise)
    side = wanted.size or images.shape[-1]

    def half(part: Any, augment: Augment | None, policy: Policy | None) -> TensorSplit:
        images = _images(part.data).expand(-1, channels, -1, -1)
        return TensorSplit(images, torch.as_tensor(part.targets), scaling, augment, wanted.size, policy)

    return Data(
        wanted.name,
        tuple(train.classes),
        (channels, side, side),
        half(train, None if wanted.augment == NONE else published.augment, policy_named(wanted.augment)),
        half(test, None, None),
    )


def _read(published: Published, root: Path, train: bool, wanted: DataRecipe) -> Any:
    try:
        return published.reader(root, train=train, download=wanted.download)
    except Exception as error:  # missing files, damaged files and lost connections raise different errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        where = root / published.folder
        if wanted.download:
            hint = f"put the published files in `{where}` yourself"
        else:
            hint = f"--set data.download=true, or put the published files in `{where}`"
        raise CompressError(f"cannot read data set `{wanted.name}` in `{where}`: {reason}", hint) from error


def _images(stored: Any) -> Tensor:
    """Images (N, C, H, W), from grey (N, H, W) or coloured (N, H, W, C) ones."""
    images = torch.as_tensor(stored)
    return images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
