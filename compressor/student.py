"""A student on disk: how to build its teacher's class, which indices stay, and the weights.

    student/
      plan.json            the source of the architecture, the plan, the shape of an input
      weights.safetensors  every parameter and buffer, as trained

``load_student`` builds the class, cuts it by the plan and fills it: the same module back, bit for bit. Nothing is
unpickled. Where the source is a ``package.module:factory``, that is imported and called, as it would be by name on the
command line: load such a folder only if you trust what it names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from compressor.budget.plan import Plan
from compressor.cutting import cut
from compressor.errors import CompressError, UsageError
from compressor.files import folder_appearing_whole, write_atomic, write_json
from compressor.models import ModelSource, build
from compressor.weights import fit, read_tensors

SCHEMA = 1
PLAN = "plan.json"
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Student:
    """A cut network with all that is needed to build it again."""

    network: nn.Module
    source: ModelSource
    plan: Plan
    input_shape: tuple[int, ...]
    about: Mapping[str, Any]


def save_student(student: Student, folder: Path) -> None:
    """Write the folder; it appears whole or not at all."""
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in student.network.state_dict().items()
    }
    owned = {name: tensor.clone() for name, tensor in state.items()}  # tied tensors are stored twice
    with folder_appearing_whole(folder) as scratch:
        write_json(
            scratch / PLAN,
            {
                "schema": SCHEMA,
                "model": student.source.to_dict(),
                "input_shape": list(student.input_shape),
                "about": dict(student.about),
                **student.plan.to_dict(),
            },
        )
        write_atomic(scratch / WEIGHTS, save(owned))


def load_student(folder: Path) -> Student:
    """The student that ``save_student`` wrote, in evaluation mode."""
    value = read_plan(folder)
    try:
        source = ModelSource(**value["model"])
        plan = Plan.from_dict(value)
        input_shape, about = tuple(value["input_shape"]), dict(value["about"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CompressError(f"`{folder / PLAN}` is damaged: {type(error).__name__}: {error}") from error
    network = cut(build(source), plan)
    fit(network, read_tensors(folder / WEIGHTS), str(folder / WEIGHTS))
    return Student(network, source, plan, input_shape, about)


def is_student(path: Path) -> bool:
    """Whether the path is a student folder."""
    return (path / PLAN).is_file() and (path / WEIGHTS).is_file()


def read_plan(folder: Path) -> dict[str, Any]:
    """The content of ``plan.json``, or why it is not one of ours."""
    if not is_student(folder):
        raise UsageError(
            f"`{folder}` is no student folder: it needs {PLAN} and {WEIGHTS}",
            "a run writes it to runs/NAME/student",
        )
    try:
        value = json.loads((folder / PLAN).read_text())
        schema = value["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise CompressError(f"`{folder / PLAN}` is damaged: {error}") from error
    if schema != SCHEMA:
        raise CompressError(f"`{folder / PLAN}` has schema {schema}, this version reads {SCHEMA}")
    return dict(value)


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks hold exactly the same tensors."""
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
