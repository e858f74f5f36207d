"""Create the student before its training: cut it from a larger network, prove the cut, repair it, and store it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import nn

from compressor.base.checks import Check, require
from compressor.base.files import write_atomic
from compressor.data.split import Data, Part
from compressor.models.copying import named_tensors
from compressor.pruning.cutting import cut
from compressor.pruning.cutting.proof import check_cut
from compressor.pruning.graph.recording.example import Inputs, inputs_of
from compressor.pruning.repairing.fit_network import BATCH, repaired
from compressor.pruning.widths.plan import Plan
from compressor.training import accuracy, reestimate
from compressor.training.distributed.world import here
from compressor.training.lesson import digest, digest_of

if TYPE_CHECKING:
    from compressor.methods.task import Task

PROOF_IMAGES = 4

STATISTICS_BATCHES = 20
"""Batches over which running statistics are measured again after a cut without repair."""


@dataclass(frozen=True)
class Start:
    """A network before its training, the checks of its cut, and its accuracy.

    ``repair``: the result of the repair, as in a report; None where nothing was cut or no repair was requested.
    """

    network: nn.Module
    checks: tuple[Check, ...] = ()
    repair: dict[str, Any] | None = None
    accuracy: float | None = None

    @property
    def is_repaired(self) -> bool:
        """True if a repair improved it, so that it is close to the trained network already."""
        return self.repair is not None and bool(self.repair["helped"])

    @property
    def warnings(self) -> tuple[str, ...]:
        """Problems of the repair."""
        if self.repair is None:
            return ()
        if not self.is_repaired:
            return (
                "the repair brought its outputs no nearer to the teacher's, so training begins without it: "
                "use more images (repair.images)",
            )
        left = self.repair["left"]
        if not left:
            return ()
        names = ", ".join(f"`{each['name']}`" for each in left[:3])
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        return (f"{len(left)} layers could not be fitted: {names}{more} ({left[0]['reason']})",)


def begun(task: Task) -> Start:
    """The student before its training: the user's own, or one cut from the teacher."""
    return given(task.given) or cut_and_repaired(task.teacher, task.student.plan, task, task.student.name)


def given(network: nn.Module | None) -> Start | None:
    """The start of a network that is not cut from another; None if there is no network. It needs no proof."""
    return None if network is None else Start(network)


def cut_and_repaired(network: nn.Module, plan: Plan, task: Task, name: str) -> Start:
    """Cut ``network``, prove that the result equals the silenced larger one, and repair it; ``name``: its stage."""
    smaller = cut(network, plan)
    checks = proved(network, smaller, plan, task.data)
    repair = None
    if task.repairing.images:
        smaller, repair, check = _repaired(network, smaller, plan, task, name)
        require((check,))
        checks = (*checks, check)
    if repair is None or not repair["helped"]:
        smaller = merely_cut(smaller, task)
    right = accuracy(smaller, task.data.test, device=task.device)
    return Start(smaller, checks, repair, right)


def merely_cut(network: nn.Module, task: Task) -> nn.Module:
    """Measure the running statistics of a cut network again: those of the larger one no longer fit."""
    return reestimate(
        network, task.data.train, batches=STATISTICS_BATCHES, seed=task.seed, device=task.device
    )


def proved(network: nn.Module, smaller: nn.Module, plan: Plan, data: Data) -> tuple[Check, ...]:
    """Prove the cut on images of the data; raise an error where that fails."""
    images = next(iter(data.test.batches(PROOF_IMAGES))).images
    checks = check_cut(network, smaller, plan, (images,))
    require(checks)
    return checks


def images_of(data: Data, count: int, seed: int, part: Part | None = None) -> Iterator[tuple[int, Inputs]]:
    """``count`` training images without augmentation, in batches; each process gets its part of every batch."""
    part, size = part or here().part, min(BATCH, count, len(data.train))
    mine = part.piece(torch.arange(size))
    batches = data.train.plain.batches(size, shuffle=seed, part=part)
    for first, batch in zip(range(0, count, size), batches, strict=False):
        images = batch.images[: int((mine < count - first).sum())]
        if len(images):
            yield first + int(mine[0]), inputs_of(images)


def _repaired(
    network: nn.Module, smaller: nn.Module, plan: Plan, task: Task, name: str
) -> tuple[nn.Module, dict[str, Any], Check]:
    """The repaired network: the one stored with the run, or fitted now and stored."""
    world, data, count = here(), task.data, task.repairing.images
    identity = {
        "network": digest(network),
        "plan": plan.to_dict(),
        "images": count,
        "seed": task.seed,
        "data": [data.name, data.shape, len(data.train)],
    }
    text = json.dumps(identity, sort_keys=True)
    path = task.checkpoints(name) / f"repaired-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
    found = world.from_first(lambda: _kept(path))
    if found is not None:
        tensors, about = found
        with torch.no_grad():
            for key, tensor in named_tensors(smaller).items():
                tensor.copy_(tensors[key])
        return smaller.eval(), about["repair"], Check(**about["check"])
    result = repaired(
        smaller,
        network,
        plan,
        images_of(data, count, task.seed),
        device=task.device,
        progress=lambda done: task.repairs(name, done),
    )
    world.agree("weights after a repair", digest(result.network))
    about = {"repair": result.to_dict(), "check": result.check.to_dict()}
    if world.first:
        _keep(path, result.network, about)
    return result.network, about["repair"], result.check


def _keep(path: Path, network: nn.Module, about: dict[str, Any]) -> None:
    """Write a file with the tensors, the facts about the repair, and a hash over both."""
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in named_tensors(network).items()
    }
    text = json.dumps(about)
    write_atomic(path, save(tensors, metadata={"about": text, "sha256": _seal(tensors, text)}))


def _kept(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """The stored tensors and facts; None if there is no file or its hash does not match: then it is made again."""
    if not path.exists():
        return None
    try:
        tensors = load(path.read_bytes())
        with safe_open(path, "pt") as file:
            told = file.metadata()
        if told["sha256"] != _seal(tensors, told["about"]):
            return None
        return tensors, json.loads(told["about"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _seal(tensors: dict[str, torch.Tensor], text: str) -> str:
    """The hash over tensors and text."""
    content = digest_of(dict(sorted(tensors.items())))
    return hashlib.sha256(f"{content}\n{text}".encode()).hexdigest()
