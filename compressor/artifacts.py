"""From the trained student to files that are proven to be it: save, load again, export, compare.

Each step here ends in a check that goes into the report; none of them decides what to do when it fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.budget.plan import Plan
from compressor.cutting.proof import Check
from compressor.recipe import ExportRecipe
from compressor.student import Student, load_student, same_bits, save_student
from export import Artifact, Session, compare, hard_batches, open_session, to_onnx
from profiles import count

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Exported:
    """A network, the file it was exported to, and a session open on that file."""

    network: nn.Module
    artifact: Artifact
    session: Session


def saved(student: Student, folder: Path, name: str = "student") -> Check:
    """Write the student folder, load it again, and compare every bit."""
    save_student(student, folder)
    equal = same_bits(load_student(folder, trust=True).network, student.network)
    return Check(f"{name} loads back bit for bit", equal, 0.0 if equal else math.inf, 0.0)


def counted(network: nn.Module, plan: Plan, image: Tensor) -> Check:
    """The costs that the plan promised against an independent count of the real network."""
    found = count(network, (image,))
    off = max(abs(found.macs - plan.costs["macs"][1]), abs(found.params - plan.costs["params"][1]))
    return Check("planned cost equals counted cost", off == 0, float(off), 0.0)


def exported(
    network: nn.Module,
    image: Tensor,
    path: Path,
    recipe: ExportRecipe,
    metadata: Mapping[str, str],
) -> Exported:
    """The network as an ONNX file, opened."""
    artifact = to_onnx(network, image, path, opset=recipe.opset, metadata=metadata)
    return Exported(network, artifact, open_session(path))


def verified(file: Exported, images: Tensor, recipe: ExportRecipe) -> list[Check]:
    """The file against PyTorch on real images, on noise and on the ends of their range, at batch 1 and at batch 8."""
    checks = []
    images = torch.cat([images, *(torch.from_numpy(hard) for hard in hard_batches(images.numpy()))])
    for batch in (1, 8):
        enough = images if len(images) >= batch else images.repeat(batch, 1, 1, 1)
        parts = [part.numpy() for part in enough.split(batch) if len(part) == batch]
        verdict = compare(
            f"{file.artifact.path.name} equals PyTorch at batch {batch}",
            lambda array: answering_network(file.network, array),
            lambda array: answering(file)(torch.from_numpy(array)).numpy(),
            parts,
            relative_tolerance=recipe.relative_tolerance,
        )
        checks.append(
            Check(verdict.name, verdict.passed, verdict.max_abs_error, verdict.tolerance, verdict.detail)
        )
    return checks


def answering(file: Exported) -> Callable[[Tensor], Tensor]:
    """The file as a function from images to logits."""
    name_in, name_out = file.session.inputs[0].name, file.session.outputs[0].name
    return lambda images: torch.from_numpy(file.session.run({name_in: images.numpy()})[name_out])


def answering_network(network: nn.Module, images: Array) -> Array:
    """PyTorch's own answer, as an array."""
    with torch.no_grad():
        return network(torch.from_numpy(images)).numpy()
