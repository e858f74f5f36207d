"""Load weights from a file into a network, never by unpickling: safetensors, or torch with ``weights_only``.

Errors name the first tensor that does not fit and both shapes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from compressor.errors import CompressError, UsageError
from compressor.models import huggingface
from compressor.models.names import ModelSource

PRETRAINED = "pretrained"


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill a newly built ``network`` from a file; every tensor must exist and fit."""
    fit(network, read_tensors(path), str(path))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file, by name."""
    if not path.is_file():
        raise UsageError(
            f"no weights file `{path}`", f"give a file, or `{PRETRAINED}` for the published weights"
        )
    try:
        if path.suffix == ".safetensors":
            return _state_dict(load_file(path), path)
        value = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        raise CompressError(f"cannot read weights `{path}`: {error}") from error
    except Exception as error:
        raise CompressError(
            f"cannot read weights `{path}` safely: {str(error).partition(chr(10))[0] or type(error).__name__}",
            "save only the state dict, preferably as safetensors; pickled modules are not loaded",
        ) from error
    return _state_dict(value, path)


def fetch_pretrained(network: nn.Module, source: ModelSource) -> None:
    """Fill ``network`` with the weights that torchvision or timm publish for it; this downloads."""
    try:
        if source.name.startswith("timm:"):
            import timm

            name = source.name.removeprefix("timm:")
            state = timm.create_model(name, pretrained=True).state_dict()
        elif source.name.startswith(huggingface.PREFIX):
            state = huggingface.pretrained_state(source.name.removeprefix(huggingface.PREFIX))
        else:
            from torchvision import models

            state = models.get_model_weights(source.name).DEFAULT.get_state_dict(progress=True)
    except Exception as error:
        raise CompressError(
            f"cannot fetch the published weights of `{source.name}`: {type(error).__name__}: {error}",
            "download them in another way and give the file to --weights",
        ) from error
    known = set(network.state_dict())
    auxiliary = ("aux1.", "aux2.", "AuxLogits.")
    state = {k: v for k, v in state.items() if k in known or not k.startswith(auxiliary)}
    fit(network, state, f"the published weights of {source.name}")


def fit(network: nn.Module, state: dict[str, Tensor], origin: str) -> None:
    """Copy ``state`` into ``network``, or name the first tensor that does not fit."""
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        if name not in state and not name.endswith("num_batches_tracked"):
            raise CompressError(
                f"{origin} has no tensor `{name}`, expected one of shape {tuple(tensor.shape)}",
                "these weights belong to another architecture" if state else "the file is empty",
            )
        if name in state and state[name].shape != tensor.shape:
            raise CompressError(
                f"{origin} does not fit: `{name}` has shape {tuple(state[name].shape)}, "
                f"the network expects {tuple(tensor.shape)}",
                "check the model: these weights are for another number of classes or another width",
            )
    extra = next((name for name in state if name not in wanted), None)
    if extra is not None:
        raise CompressError(
            f"{origin} has a tensor `{extra}` of shape {tuple(state[extra].shape)} that the network lacks",
            "these weights belong to another architecture",
        )
    network.load_state_dict(state, strict=False)


def _state_dict(value: Any, path: Path) -> dict[str, Tensor]:
    """Unwrap the usual containers of training scripts (``state_dict``, ``model``; ``module.`` prefixes)."""
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    if not isinstance(value, dict) or not all(isinstance(v, Tensor) for v in value.values()):
        raise CompressError(
            f"`{path}` holds a {type(value).__name__}, expected a dictionary of tensors",
            "save network.state_dict()",
        )
    if value and all(name.startswith("module.") for name in value):
        value = {name.removeprefix("module."): tensor for name, tensor in value.items()}
    return value
