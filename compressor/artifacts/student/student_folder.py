"""A student folder: the source of its teacher, the kept indices, the weights, and the program if there is one.

    student/
      plan.json            source and tensor shapes of the teacher, the plan, hashes of the other files (`planfile`)
      weights.safetensors  every tensor of the network: parameters, buffers, persistent or not, plain attributes
      program.json         the rewritten operators, where the teacher's own class could not be kept

To load a student of the teacher's class, the class is built again and cut, and every tensor is set from the file:
values that a constructor draws or computes do not matter. A program needs no class. Nothing is unpickled, and no code
that a file names is imported, unless the caller trusts the folder. ``plan.json`` alone can cut a fresh teacher again
(``apply_plan``). Not stored: tensors that a forward pass left in a list or dictionary of a module.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from compressor.artifacts.student.planfile import PLAN, PROGRAM, WEIGHTS, PlanFile, read_plan
from compressor.artifacts.student.tensorfile import bytes_of, order_of, same_bits, tensors_of
from compressor.base.files import folder_appearing_whole, write_atomic
from compressor.base.strict_json import DamageError, canonical, parsed, read_bytes, readable
from compressor.errors import CompressError, UsageError
from compressor.models.architecture_hash import architecture_of, registered, require_same
from compressor.models.copying import copy_with, named_tensors
from compressor.models.names import ModelSource, build
from compressor.pruning.cutting import cut, form_of
from compressor.pruning.cutting.program_check import program_from_json, program_to_json
from compressor.pruning.cutting.sliced import sliced
from compressor.pruning.widths.plan import Plan

__all__ = ["Student", "apply_plan", "is_student", "load_student", "read_plan", "same_bits", "save_student"]

T = TypeVar("T")


@dataclass(frozen=True)
class Student:
    """A cut network with everything that is needed to build it again."""

    network: nn.Module
    source: ModelSource
    plan: Plan
    input_shape: tuple[int, ...]
    about: Mapping[str, Any]


def save_student(student: Student, folder: Path) -> None:
    """Write the folder; it appears whole or not at all."""
    form = form_of(student.network)
    source = student.source
    tensors = named_tensors(student.network)
    program = None
    if form == "program":
        program = _plain_json(lambda: program_to_json(student.network))
        if source.tensors is None:
            source = replace(source, tensors=architecture_of(_built(source)))
    else:
        fresh = _built(source)
        source = replace(source, tensors=architecture_of(fresh))
        tensors = _stored(student, fresh, tensors)
    layout = {name: order for name, tensor in tensors.items() if (order := order_of(tensor)) is not None}
    files = {WEIGHTS: bytes_of(tensors)}
    if program is not None:
        files[PROGRAM] = readable(program).encode() + b"\n"
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    shape = tuple(student.input_shape)
    plan = PlanFile(form, source, student.plan, shape, student.about, layout, hashes).to_dict
    written = _plain_json(plan)
    _plain_json(lambda: PlanFile.from_dict(written).to_dict())  # never write a plan that cannot be read
    with folder_appearing_whole(folder) as scratch:
        for name, content in files.items():
            write_atomic(scratch / name, content)
        write_atomic(scratch / PLAN, readable(written) + "\n")


def load_student(folder: Path, *, trust: bool = False) -> Student:
    """The student that ``save_student`` wrote, in evaluation mode.

    ``trust``: import and call the ``package.module:factory`` that the folder names, where its class is needed.
    """
    if not is_student(folder):
        raise UsageError(
            f"`{folder}` is not a student folder: it needs {PLAN} and {WEIGHTS}",
            "a run writes it to runs/NAME/student",
        )
    file = read_plan(folder)
    if file.form == "module" and file.source.names_code and not trust:
        raise UsageError(
            f"`{folder / PLAN}` names code that would be imported and run: `{file.source.name}`",
            "if you trust the source of the folder: `trust=True` in Python, `--trust` on the command line",
        )
    contents = {name: _genuine(folder / name, digest) for name, digest in file.files.items()}
    tensors = _from_file(folder / WEIGHTS, lambda: tensors_of(contents[WEIGHTS], file.layout))
    network: nn.Module
    if file.form == "program":
        network = _from_file(folder / PROGRAM, lambda: program_from_json(parsed(contents[PROGRAM]), tensors))
    else:
        fresh = _from_file(folder / PLAN, lambda: _built(file.source, tensors))
        network = _from_file(folder / WEIGHTS, lambda: _filled(fresh, file, tensors))
    return Student(network.eval(), file.source, file.plan, file.input_shape, file.about)


def apply_plan(network: nn.Module, path: Path) -> nn.Module:
    """The network cut by a ``plan.json`` (or the one in a folder), untrained; refused if it is another teacher."""
    file = read_plan(path)
    hint = f"the plan is for `{file.source.name}`, classes: {file.source.classes or 'its own'}"
    require_same(architecture_of(network), file.teacher, "the network", hint)
    return _from_file(path, lambda: cut(network, file.plan))


def is_student(path: Path) -> bool:
    """True if the path is a student folder."""
    return (path / PLAN).is_file() and (path / WEIGHTS).is_file()


def _built(source: ModelSource, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Build the teacher's network, without changing the state of the caller's random numbers."""
    if weights is not None and not source.names_code and source.classes is not None:
        # A wrong number in a file must not fill the memory: classes are never cut, so a weight must have that size.
        sizes = {size for tensor in weights.values() if tensor.numel() for size in tensor.shape}
        if not any(size and size % source.classes == 0 for size in sizes):
            raise CompressError(
                f"`{source.name}` has {source.classes} classes in {PLAN}, but no tensor in {WEIGHTS} has that size"
            )
    with torch.random.fork_rng(devices=[]):
        network = build(replace(source, tensors=None))
    if source.tensors is not None:
        hint = f"it was built differently by `{source.name}` when the student was saved; other versions?"
        require_same(architecture_of(network), source.tensors, "the teacher's network", hint)
    return network


def _stored(student: Student, fresh: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors to write for a student of the teacher's class, after checking that its source can rebuild it."""
    small = sliced(fresh, student.plan)
    known = named_tensors(small)
    own = {name: tensor for name, tensor in tensors.items() if name in known or _vacant(small, name)}
    actual = {name: ("data", tuple(tensor.shape)) for name, tensor in registered(student.network).items()}
    expected = {name: ("data", tuple(tensor.shape)) for name, tensor in registered(small).items()}
    # Tensors that a forward pass created need not be in the rebuilt network.
    compared = {name: look for name, look in actual.items() if name in expected or name not in own}
    hint = f"check that it was cut from `{student.source.name}`, and by this plan"
    require_same(compared, expected, "the student", hint)
    return own


def _filled(fresh: nn.Module, file: PlanFile, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Cut the teacher's network and replace its tensors by those of the file."""
    small = sliced(fresh, file.plan)
    for name, tensor in registered(small).items():
        if name not in tensors:
            raise DamageError(f"it has no tensor `{name}`, expected one of shape {tuple(tensor.shape)}")
        if tensors[name].shape != tensor.shape:
            raise DamageError(
                f"`{name}` has shape {tuple(tensors[name].shape)}, the network expects {tuple(tensor.shape)}"
            )
    known = named_tensors(small)
    network = copy_with(small, lambda name, tensor: tensors.get(name, tensor))
    for name, tensor in tensors.items():
        if name not in known:
            if not _vacant(network, name):
                raise DamageError(f"it has a tensor `{name[:80]}` that the network lacks")
            owner, _, key = name.rpartition(".")
            setattr(network.get_submodule(owner), key, tensor)
    return network


def _vacant(network: nn.Module, name: str) -> bool:
    """True if this attribute is None and may be filled by a forward pass."""
    path, _, key = name.rpartition(".")
    try:
        owner = network.get_submodule(path)
    except AttributeError:
        return False
    held = vars(owner).get(key, owner._buffers.get(key))
    taken = key in owner._parameters or key in owner._modules or hasattr(nn.Module, key)
    return key.isidentifier() and not taken and held is None and getattr(type(owner), key, None) is None


def _genuine(path: Path, digest: str) -> bytes:
    """The content of a file, if it has the hash in the plan."""
    content = read_bytes(path)
    if hashlib.sha256(content).hexdigest() != digest:
        raise CompressError(
            f"`{path}` is damaged: it was changed after it was written, it does not have the hash in {PLAN}",
            "copy it again from its original",
        )
    return content


def _from_file(path: Path, make: Callable[[], T]) -> T:
    """Call ``make`` on a file's content; any error is reported as damage of this file."""
    try:
        return make()
    except CompressError:
        raise
    except DamageError as error:
        raise CompressError(f"`{path}` is damaged: {error}") from error
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise CompressError(f"`{path}` is damaged: {type(error).__name__}: {reason}") from error


def _plain_json(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The values to write as plain JSON, or an error with the reason why JSON cannot hold them."""
    try:
        made = make()
        canonical(made)
        value: dict[str, Any] = json.loads(json.dumps(made))
    except (TypeError, ValueError, RecursionError) as error:
        raise CompressError(f"cannot write the student: {error}") from error
    return value
