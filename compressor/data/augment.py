"""Published augmentation policies with random numbers that can be repeated for each sample.

torchvision draws from torch's global generator. That cannot be used here: several threads decode
pictures while the training draws dropout from the same generator, so neither would be repeatable,
and a lock among the decoding threads would not stop the training. Inside ``varied`` torch's random
functions get a generator of the sample's own instead. This holds only for the calling thread, and
the global generator is neither read nor advanced.

Not here: policies for a whole batch (mixup, cutmix), which change labels too.
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
"""From a picture to one of the same size. torchvision is four times as fast on Pillow pictures as on tensors."""

DEFAULT, NONE = "default", "none"

POLICIES = {
    "randaugment": "RandAugment",
    "trivialaugment": "TrivialAugmentWide",
    "autoaugment": "AutoAugment",
}
"""Classes of ``torchvision.transforms.v2``, each with its own defaults (``AutoAugment``: ImageNet's policy)."""

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
    """Raise an error for an unknown name."""
    if name not in (DEFAULT, NONE, *POLICIES):
        raise unknown_name("augment", name, (DEFAULT, NONE, *POLICIES))


def policy_named(name: str) -> Policy | None:
    """The policy of this name, or None for ``default`` (the source's own augmentation) and ``none``."""
    if name not in POLICIES:
        return None
    # Imported here: torchvision takes a second to import, which is needed only for a policy.
    from torchvision.transforms import v2

    return getattr(v2, POLICIES[name])()


def varied(policy: Policy, picture: Image.Image, random: Random) -> Image.Image:
    """The picture changed by the policy, which depends only on ``random``."""
    with _DrawingFrom(torch.Generator().manual_seed(random.getrandbits(63))):
        return policy(picture)


def varied_pixels(policy: Policy, image: Tensor, random: Random) -> Tensor:
    """`varied` for uint8 pixels (C, H, W), of one channel or three."""
    channels, height, width = image.shape
    content = image.permute(1, 2, 0).contiguous().numpy().tobytes()
    picture = Image.frombytes("L" if channels == 1 else "RGB", (width, height), content)
    return pixels_of(varied(policy, picture, random)).permute(2, 0, 1)


def pixels_of(picture: Image.Image) -> Tensor:
    """Pixels (H, W, C) of a picture in grey or colour."""
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.view(picture.height, picture.width, -1)


class _DrawingFrom(TorchFunctionMode):
    """While active, torch's random functions draw from this generator, in this thread."""

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
