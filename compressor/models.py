"""From a name to a fresh network: how a teacher's class is built, today and when a student is loaded.

A ``ModelSource`` is all that is needed to build the same architecture again, so it is what a student
folder keeps. Weights are a separate matter (``weights.py``).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from compressor.errors import CompressError, UsageError, unknown_name
from compressor.imports import load_attribute

BUILTIN = "glyphnet"


@dataclass(frozen=True)
class ModelSource:
    """A name (torchvision, ``timm:NAME``, ``package.module:factory``, ``glyphnet``) and its classes."""

    name: str
    classes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def build(source: ModelSource) -> nn.Module:
    """A new network with random weights, in evaluation mode."""
    network = _builder(source.name)(source)
    if not isinstance(network, nn.Module):
        raise CompressError(f"`{source.name}` gave a {type(network).__name__}, expected a torch.nn.Module")
    return network.eval()


def _builder(name: str) -> Callable[[ModelSource], Any]:
    if name == BUILTIN:
        return _builtin
    if name.startswith("timm:"):
        return _timm
    if ":" in name:
        return _factory
    return _torchvision


def _builtin(source: ModelSource) -> nn.Module:
    from compressor.data import glyphs
    from compressor.glyphnet import GlyphNet

    return GlyphNet(source.classes or glyphs.CLASSES)


def _torchvision(source: ModelSource) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if source.name not in known:
        raise unknown_name("model", source.name, [*known, BUILTIN])
    options: dict[str, Any] = _classes(source)
    if source.name in ("googlenet", "inception_v3"):
        # Auxiliary heads exist for the first training only, and turn the output into a tuple.
        options |= {"aux_logits": False, "init_weights": False}
    return models.get_model(source.name, weights=None, **options)


def _timm(source: ModelSource) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise UsageError(
            f"`{source.name}` needs the package timm",
            "python -m pip install 'compress-to-edge[timm]'",
        ) from error
    name = source.name.removeprefix("timm:")
    if not timm.is_model(name):
        raise unknown_name("timm model", name, timm.list_models())
    return timm.create_model(name, pretrained=False, **_classes(source))


def _factory(source: ModelSource) -> Any:
    make = load_attribute(source.name, "model")
    try:
        accepts = "num_classes" in inspect.signature(make).parameters
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make(**(_classes(source) if accepts else {}))
    except Exception as error:
        raise CompressError(
            f"model factory `{source.name}` failed: {type(error).__name__}: {error}"
        ) from error


def _classes(source: ModelSource) -> dict[str, Any]:
    return {} if source.classes is None else {"num_classes": source.classes}
