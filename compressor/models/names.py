"""Build a network from a name, for a new run and when a student is loaded.

A ``ModelSource`` is enough to build the same architecture again, so a student folder stores it.
Weights are loaded separately (``weights.py``).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from compressor.base.imports import load_attribute
from compressor.errors import CompressError, UsageError, unknown_name
from compressor.models import huggingface
from compressor.models.architecture_hash import Architecture

BUILTIN = "glyphnet"

Builder = Callable[[int | None], Any]


@dataclass(frozen=True)
class ModelSource:
    """A name (torchvision, ``timm:``, ``hf:``, ``smp:``, ``package.module:factory``, ``glyphnet``) and its classes.

    ``tensors``: types and shapes of the network's tensors, if known, as for a student's teacher.
    """

    name: str
    classes: int | None = None
    tensors: Architecture | None = field(default=None, compare=False, repr=False)

    @property
    def names_code(self) -> bool:
        """True if building it imports and calls code that the name says."""
        return ":" in self.name and not self.name.startswith(tuple(LIBRARIES))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"name": self.name, "classes": self.classes}


def build(source: ModelSource) -> nn.Module:
    """A new network with random weights, in evaluation mode."""
    if source.classes is not None and source.classes < 1:
        raise UsageError(f"cannot build `{source.name}` for {source.classes} classes", "at least 1")
    network = builder_of(source.name)(source.classes)
    if not isinstance(network, nn.Module):
        raise CompressError(f"`{source.name}` gave a {type(network).__name__}, expected a torch.nn.Module")
    return network.eval()


def builder_of(name: str) -> Builder:
    """The function that builds this network for a number of classes; an unknown name is an error immediately."""
    if name == BUILTIN:
        return _builtin
    for prefix, library in LIBRARIES.items():
        if name.startswith(prefix):
            return library(name.removeprefix(prefix))
    if ":" in name:
        return _factory(name)
    return _torchvision(name)


def _builtin(classes: int | None) -> nn.Module:
    from compressor.data import glyphs
    from compressor.models.glyphnet import GlyphNet

    return GlyphNet(classes or glyphs.CLASSES)


def _torchvision(name: str) -> Builder:
    from torchvision import models

    # Networks of other tasks too; those in eight bits cannot be compressed any more.
    known = [model for model in models.list_models() if not model.startswith("quantized_")]
    if name not in known and "/" in name:  # it was meant as a path
        raise UsageError(
            f"unknown model `{name}`: there is no such folder or file",
            "a run folder has student/, and a student folder has plan.json",
        )
    if name not in known:
        raise unknown_name("model", name, [*known, BUILTIN])
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # Auxiliary heads are for training from scratch only, and make the output a tuple.
        options = {"aux_logits": False, "init_weights": False}
    elif "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        options = {"weights_backbone": None}
    return lambda classes: models.get_model(name, weights=None, **options, **_number(classes))


def _timm(name: str) -> Builder:
    try:
        import timm
    except ImportError as error:
        raise UsageError(
            f"`timm:{name}` needs the package timm", "python -m pip install 'compress-to-edge[timm]'"
        ) from error
    if not timm.is_model(name):
        raise unknown_name("timm model", name, timm.list_models())
    return lambda classes: timm.create_model(name, pretrained=False, **_number(classes))


def _smp(name: str) -> Builder:
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise UsageError(
            f"`smp:{name}` needs the package segmentation-models-pytorch",
            "python -m pip install 'compress-to-edge[segmentation]'",
        ) from error
    kind, _, encoder = name.partition("/")
    known = [each for each in vars(smp) if each[0].isupper() and hasattr(getattr(smp, each), "forward")]
    if kind not in known:
        raise unknown_name("architecture of segmentation_models_pytorch", kind, known)

    def build(classes: int | None) -> Any:
        try:
            return getattr(smp, kind)(encoder or "resnet34", encoder_weights=None, classes=classes or 1)
        except KeyError as error:
            raise UsageError(
                f"unknown encoder `{encoder}` in `smp:{name}`", "as in smp:Unet/resnet18"
            ) from error

    return build


LIBRARIES: dict[str, Callable[[str], Builder]] = {
    "timm:": _timm,
    huggingface.PREFIX: huggingface.builder,
    "smp:": _smp,
}
"""Beginnings of names that belong to a library."""


def _factory(reference: str) -> Builder:
    make = load_attribute(reference, "model")

    def call(classes: int | None) -> Any:
        try:
            accepts = "num_classes" in inspect.signature(make).parameters
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return make(**(_number(classes) if accepts else {}))
        except Exception as error:
            raise CompressError(
                f"model factory `{reference}` failed: {type(error).__name__}: {error}"
            ) from error

    return call


def _number(classes: int | None) -> dict[str, int]:
    return {} if classes is None else {"num_classes": classes}
