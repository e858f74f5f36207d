"""Networks of Hugging Face's ``transformers`` as functions from images to logits. The package is imported on use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compressor.errors import CompressError, UsageError, unknown_name

PREFIX = "hf:"


class Logits(nn.Module):
    """A network that takes ``pixel_values`` and returns a record, as one from images to its logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(pixel_values=images).logits
        return logits


def builder(name: str) -> Any:
    """The builder of an image classifier by a model type, a repository, or a folder with config.json."""
    transformers = _transformers(name)
    config = _config(transformers, name)

    def build(classes: int | None) -> nn.Module:
        if classes is not None:
            config.num_labels = classes
        try:
            return Logits(transformers.AutoModelForImageClassification.from_config(config))
        except ValueError as error:
            raise UsageError(
                f"`{PREFIX}{name}` classifies no images: {str(error).splitlines()[0]}",
                "for other tasks write a factory, package.module:factory, that returns the network",
            ) from error

    return build


def pretrained_state(name: str) -> dict[str, Tensor]:
    """The published weights; this downloads, or reads the folder."""
    network = _transformers(name).AutoModelForImageClassification.from_pretrained(name)
    return Logits(network).state_dict()


def _transformers(name: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UsageError(
            f"`{PREFIX}{name}` needs the package transformers",
            "python -m pip install 'compress-to-edge[hf]'",
        ) from error
    return transformers


def _config(transformers: Any, name: str) -> Any:
    if name in transformers.CONFIG_MAPPING:
        return transformers.CONFIG_MAPPING[name]()
    if not Path(name).is_dir() and "/" not in name:
        raise unknown_name("Hugging Face model type", name, transformers.CONFIG_MAPPING.keys())
    try:
        return transformers.AutoConfig.from_pretrained(name)
    except Exception as error:
        raise CompressError(
            f"cannot read the configuration of `{PREFIX}{name}`: {str(error).splitlines()[0]}",
            "a folder with config.json, a repository OWNER/NAME, or a model type such as resnet",
        ) from error
