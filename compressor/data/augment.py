"""Published policies of augmentation, drawn so that each sample repeats.

torchvision draws from torch's global generator. That one may not be used here: pictures are decoded
by several threads while the training draws its dropout from the same generator, so neither would
repeat, and a lock among the decoding threads would not keep the training out. Inside ``varied``
torch's drawing functions are given a generator of the sample's own instead. The diversion holds for
the calling thread alone, and the global generator is neither read nor moved.

Left out: policies for a whole batch (mixup, cutmix), which change labels too.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

from compressor.errors import unknown_name

Policy = Callable[[Image.Image], Image.Image]
"""From a picture to another of the same size: Pillow's, which torchvision varies four times as fast as a tensor."""

DEFAULT, NONE = "default", "none"

POLICIES = {
    "randaugment": "RandAugment",
    "trivialaugment": "TrivialAugmentWide",
    "autoaugment": "AutoAugment",
}
"""The classes of ``torchvision.transforms.v2``, each with its own defaults (``AutoAugment``: what ImageNet taught)."""

_DRAWING = {
    torch.rand,
    torch.randint,
    torch.randn,
    torch.randperm,
    torch.multinomial,
    torch.bernoulli,
    torch.normal,
}
_DRAWING |= {torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.random_, torch.Tensor.bernoulli_}


def check_augment(name: str) -> None:
    """Refuse a name that is in no table."""
    if name not in (DEFAULT, NONE, *POLICIES):
        raise unknown_name("augment", name, (DEFAULT, NONE, *POLICIES))


def policy_named(name: str) -> Policy | None:
    """The policy of this name; none for ``default`` and ``none``, which are what a source does by itself, or not."""
    if name not in POLICIES:
        return None
    # torchvision takes a second to import, which nobody should wait for who has no policy.
    from torchvision.transforms import v2

    return getattr(v2, POLICIES[name])()


def varied(policy: Policy, picture: Image.Image, random: Random) -> Image.Image:
    """What the policy makes of this picture; ``random`` decides, and nothing else."""
    with _DrawingFrom(torch.Generator().manual_seed(random.getrandbits(63))):
        return policy(picture)


def varied_pixels(policy: Policy, image: Tensor, random: Random) -> Tensor:
    """The same for uint8 pixels (C, H, W), of one channel or three."""
    channels, height, width = image.shape
    content = image.permute(1, 2, 0).contiguous().numpy().tobytes()
    picture = Image.frombytes("L" if channels == 1 else "RGB", (width, height), content)
    return pixels_of(varied(policy, picture, random)).permute(2, 0, 1)


def pixels_of(picture: Image.Image) -> Tensor:
    """The pixels (H, W, C) of a picture in grey or colour."""
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.view(picture.height, picture.width, -1)


class _DrawingFrom(TorchFunctionMode):
    """While it lasts, torch's drawing functions draw from this generator, in this thread."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        named = dict(kwargs or {})
        if func in _DRAWING:
            named["generator"] = self.generator
        return func(*args, **named)
