"""A training on disk, so that a killed run goes on exactly where it was.

    last.safetensors   network.NAME, momentum.NAME; metadata: epochs done, their log, fingerprint
    best.safetensors   the tensors of a state dict; metadata: epoch, accuracy

Tensors and what is said about them lie in one file that appears whole, so they cannot disagree.
Nothing is pickled: reading a checkpoint runs no code. Left out: random states, because every
epoch is seeded by its number, and the device, so a run may go on elsewhere (then not bit by bit).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from compressor.data.split import Data
from compressor.distill.record import Epoch
from compressor.distill.schedule import Schedule
from compressor.errors import CompressError
from compressor.files import write_atomic

LAST = "last.safetensors"
BEST = "best.safetensors"

Fingerprint = dict[str, str]


@dataclass(frozen=True)
class Moving:
    """The three things that training changes in place."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def fingerprint(
    network: nn.Module, teacher: nn.Module | None, data: Data, schedule: Schedule, seed: int
) -> Fingerprint:
    """What makes a training this one and no other, in parts, so that an error can name the part."""
    return {
        "schedule": json.dumps(asdict(schedule)),
        "seed": str(seed),
        "data": json.dumps([data.name, data.classes, data.shape, len(data.train), len(data.test)]),
        "network": _digest(network),
        "teacher": "none" if teacher is None else _digest(teacher),
    }


def save_checkpoint(folder: Path, moving: Moving, history: Iterable[Epoch], identity: Fingerprint) -> None:
    """Write the state after the last epoch of ``history``, and the best file if that is the best.

    The best goes first: a run killed between the two repeats this epoch and writes both again,
    whereas the other order would leave a log that speaks of a best file that is not there.
    """
    epochs = list(history)
    network = _packed(moving.network.state_dict())
    now = epochs[-1].accuracy
    earlier = [epoch.accuracy for epoch in epochs[:-1] if epoch.accuracy is not None]
    if now is not None and all(now > accuracy for accuracy in earlier):
        about = {"epoch": str(len(epochs)), "accuracy": repr(now)}
        write_atomic(folder / BEST, save(network, about))
    momentum = _packed(_momentum(moving))
    tensors = {f"network.{name}": tensor for name, tensor in network.items()}
    tensors |= {f"momentum.{name}": tensor for name, tensor in momentum.items()}
    about = {
        "fingerprint": json.dumps(identity),
        "history": json.dumps([asdict(epoch) for epoch in epochs]),
        "scaler": json.dumps(moving.scaler.state_dict()),
    }
    write_atomic(folder / LAST, save(tensors, about))


def load_checkpoint(folder: Path, moving: Moving, identity: Fingerprint) -> tuple[Epoch, ...]:
    """Put the saved state into ``moving`` and return the epochs done; none if nothing was saved."""
    path = folder / LAST
    if not path.exists():
        return ()
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            _refuse_another_run(path, about, identity)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CompressError(f"cannot read checkpoint `{path}`: {error}", _START_OVER) from error
    network, momentum = _under("network.", tensors), _under("momentum.", tensors)
    moving.network.load_state_dict(network)
    for name, parameter in moving.network.named_parameters():
        if name in momentum:
            # In the parameter's layout: other strides take another path through the arithmetic.
            buffer = torch.empty_like(parameter, requires_grad=False).copy_(momentum[name])
            moving.optimizer.state[parameter]["momentum_buffer"] = buffer
    moving.scaler.load_state_dict(json.loads(about["scaler"]))
    return tuple(Epoch(**epoch) for epoch in json.loads(about["history"]))


_START_OVER = "delete the folder to start over, or name another one"


def _refuse_another_run(path: Path, about: Mapping[str, str], identity: Fingerprint) -> None:
    if "fingerprint" not in about:
        raise CompressError(f"`{path}` is not a checkpoint of a training", _START_OVER)
    saved = json.loads(about["fingerprint"])
    other = [part for part in identity if saved.get(part) != identity[part]]
    if other:
        raise CompressError(
            f"checkpoint `{path}` is of another training: it differs in {', '.join(other)}",
            _START_OVER,
        )


def _momentum(moving: Moving) -> dict[str, Tensor]:
    # A parameter that never had a gradient has no momentum either.
    named = moving.network.named_parameters()
    state = moving.optimizer.state
    buffers = {name: state.get(p, {}).get("momentum_buffer") for name, p in named}
    return {name: buffer for name, buffer in buffers.items() if buffer is not None}


def _packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Clones, because the file format refuses tensors that share memory, as tied weights do.
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def _bytes_of(tensor: Tensor) -> Any:
    # Through uint8, because numpy knows no bfloat16.
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
