"""Resolve the subject of a smaller command: a model name, a student folder, a run folder or a file.

``compress run`` builds its teacher with the data known; here there is only a network or a file, so the
input is noise of the shape that the student folder, the file or the user gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from compressor.artifacts.file_times import with_times
from compressor.artifacts.layer_times import layer_rows, layer_table
from compressor.artifacts.profile import Profile, profiled
from compressor.artifacts.prove import Proof, in_pytorch, truth_of_file, truth_of_network
from compressor.artifacts.runtimes import KINDS, SUFFIXES, Kind, kind_of
from compressor.artifacts.student import is_student, load_student
from compressor.artifacts.write import (
    Source,
    Written,
    calibration_images,
    checked,
    engine_rows,
    formats_of,
    settled,
    written,
    written_onnx,
)
from compressor.data import glyphs, load_data
from compressor.data.split import Data
from compressor.errors import CompressError, UsageError
from compressor.exporting import (
    FORMATS,
    Engine,
    Session,
    load_engine,
    open_openvino,
    open_program,
    open_session,
    open_stranger,
)
from compressor.models.names import BUILTIN
from compressor.profiling import Counts, FileCounts
from compressor.profiling.granule import Waste
from compressor.recipe import DataRecipe, ExportRecipe, ModelRecipe, ProfileRecipe, read_recipe
from compressor.run.folder import RunFolder
from compressor.run.report.report_rows import latency_title, measured, percent, short, spread
from compressor.run.teacher import build_model, check_weights

Shape = tuple[int, ...]

IMAGENET: Shape = (3, 224, 224)
SIDES = ("teacher", "student")
OPENS: dict[Kind, Callable[[Path], Session | Engine]] = {
    "file": open_session,
    "engine": load_engine,
    "ir": open_openvino,
    "program": open_program,
}


@dataclass(frozen=True)
class Subject:
    """A network or a file, with the shape of one image for it."""

    network: nn.Module | None
    file: Path | None
    shape: Shape


def resolve(model: ModelRecipe, classes: int | None, shape: Shape | None) -> Subject:
    """Resolve a name to a network or a file."""
    path = Path(model.name)
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise UsageError(f"no file `{path}`")
        if path.suffix == ".onnx":
            open_stranger(path)  # in a separate process first, because the file may be hostile
        return Subject(None, path, shape or _image(OPENS[kind_of(path)](path).inputs[0].shape))
    folder = student_folder(path)
    if folder is not None:
        student = load_student(folder, trust=model.trust)
        return Subject(student.network, None, shape or _image(student.input_shape))
    network, _, _ = build_model(model, classes)
    default = (3, glyphs.SIZE, glyphs.SIZE) if model.name == BUILTIN else IMAGENET
    return Subject(network, None, shape or default)


def student_folder(path: Path) -> Path | None:
    """The path if it is a student folder, else the student folder in that run folder, else None."""
    inside = RunFolder(path).student
    return next((folder for folder in (path, inside) if is_student(folder)), None)


def profile_subjects(
    names: list[str], shape: Shape | None, recipe: ProfileRecipe, *, trust: bool = False, layers: bool = False
) -> Profile:
    """Count and time one subject, or two of them interleaved; with ``layers`` also time each of their layers."""
    models = (ModelRecipe(name, trust=trust) for name in names)
    subjects = dict(zip(SIDES, (resolve(model, None, shape) for model in models), strict=False))
    shapes = {subject.shape for subject in subjects.values()}
    if len(shapes) > 1:
        raise UsageError(
            f"the two have inputs of different shapes: {' and '.join(str(size) for size in sorted(shapes))}",
            "give one --shape for both",
        )
    networks = {side: subject.network for side, subject in subjects.items() if subject.network is not None}
    files = {side: subject.file for side, subject in subjects.items() if subject.file is not None}
    image = _noise(1, shapes.pop())
    profile = profiled(networks, files, image, recipe)
    return replace(profile, layers=layer_rows(networks, files, image, recipe)) if layers else profile


@dataclass(frozen=True)
class ExportRequest:
    """Request of an export; ``out``: path of the file of the first format."""

    model: ModelRecipe
    recipe: ExportRecipe
    classes: int | None = None
    shape: Shape | None = None
    out: Path | None = None
    data: str | None = None


@dataclass(frozen=True)
class Exported:
    """Result of an export: the files, the table of proofs, and notes."""

    files: list[Written]
    proofs: list[Proof]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """True if no file failed."""
        return all(file.passed for file in self.files)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "artifacts": [file.artifact.to_dict() for file in self.files if file.artifact is not None],
            "proofs": [proof.to_dict() for proof in self.proofs],
            "checks": [check.to_dict() for file in self.files for check in file.checks],
            "engines": engine_rows(self.files),
            "notes": list(self.notes),
        }


def export_subject(request: ExportRequest) -> Exported:
    """Write the files and compare each with PyTorch (or with the ONNX file that it was made from).

    They are compared on noise, unless the subject is a run with known data or ``--data`` is given.
    """
    model, recipe = request.model, request.recipe
    names, left_out = formats_of(recipe)
    folder = student_folder(Path(model.name))
    if folder is None and Path(model.name).suffix != ".onnx":
        check_weights(model)
    subject = resolve(model, request.classes, request.shape)
    data = _data_of(request, folder, names)
    images = next(iter(data.test.batches(16))).images if data else _noise(16, subject.shape)
    # Files of a run are never overwritten: its report has their SHA-256.
    stem = (
        folder / "student" if folder else Path(Path(model.name).name.replace(":", "-").removesuffix(".onnx"))
    )
    calibration = calibration_images(data, 0) if data else ()
    with TemporaryDirectory() as scratch:
        if subject.network is None:
            assert subject.file is not None
            if kind_of(subject.file) != "file":
                raise UsageError(
                    f"`{model.name}` is {KINDS[kind_of(subject.file)][0]}, which cannot be converted",
                    "give its ONNX file",
                )
            names = tuple(name for name in names if name != "onnx")
            if not names:
                raise UsageError(
                    f"`{model.name}` is an ONNX file already", "ask for another format with --to"
                )
            source = Source(subject.file, stem, calibration=calibration)
            truth, truth_name = truth_of_file(subject.file, images, data), subject.file.name
        else:
            onnx = _target("onnx", names, stem, request.out) or Path(scratch) / f"{stem.name}.onnx"
            artifact = written_onnx(subject.network, images[:1], onnx, recipe, {})
            source = Source(onnx, stem, subject.network, images[:1], calibration)
            truth, truth_name = truth_of_network(subject.network, images, data), "network"
        files = []
        for name in names:
            target = _target(name, names, stem, request.out)
            file = (
                checked(artifact, truth, recipe)
                if name == "onnx"
                else written(name, source, truth, recipe, target)
            )
            files.append(file)
        proofs, slow = with_times(
            [in_pytorch(truth_name, truth), *(proof for file in files for proof in file.proofs)],
            [file.artifact.path for file in files if file.artifact is not None],
            images[:1], ProfileRecipe(), against=source.onnx, plain=source.onnx.name,
        )  # fmt: skip
        files = [settled(file) for file in files]
    return Exported(files, proofs, (*(note for file in files for note in file.notes), *left_out, *slow))


def _target(name: str, names: Sequence[str], stem: Path, out: Path | None) -> Path | None:
    """Path for a format: ``out`` for the first one; None if the format is not requested."""
    if name not in names:
        return None
    return out if out is not None and name == names[0] else stem.with_name(stem.name + FORMATS[name].suffix)


def _data_of(request: ExportRequest, folder: Path | None, names: Sequence[str]) -> Data | None:
    """Load the data of the request, or, if a format needs images, that of the run that the subject belongs to."""
    if request.data is not None:
        return load_data(DataRecipe(name=request.data, classes=request.classes), 0)
    if not any(FORMATS[name].calibrated for name in names):
        return None
    run = RunFolder(folder.parent) if folder else None
    return load_data(read_recipe(run.recipe).data, 0) if run and run.recipe.exists() else None


def print_profile(profile: Profile, console: Console) -> None:
    """Print the profile as a table; for two subjects with the share that the second saves."""
    sides = [name for name in SIDES if name in profile.counts or name in profile.file_bytes]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in sides:
        table.add_column({"teacher": "first", "student": "second"}[name], justify="right")
    if len(sides) == 2:
        table.add_column("removed", justify="right")
    for title, values in _figures(profile):
        cells = [short(values[name]) if name in values else "–" for name in sides]
        if len(sides) == 2:
            both = len(values) == 2
            cells.append(percent(1 - values["student"] / values["teacher"]) if both else "–")
        table.add_row(title, *cells)
    for row in profile.latency:
        cells = [spread(row[name]) if name in row else "–" for name in sides]
        if len(sides) == 2:
            cells.append(f"{row['speedup']['median']:.2f}× as fast" if "speedup" in row else "–")
        table.add_row(latency_title(row, profile.latency), *cells)
    console.print(table)
    console.print(measured(profile.latency, profile.device), style="dim")
    if profile.layers is not None:
        console.print()
        console.print(layer_table(profile.layers))
        for waste in profile.layers["wasteful_widths"]:
            console.print(str(Waste(**waste)), style="yellow", markup=False)
    for note in profile.notes:
        console.print(note, style="dim", markup=False)


def _figures(profile: Profile) -> list[tuple[str, dict[str, float]]]:
    rows: list[tuple[str, dict[str, float]]] = []
    counted: dict[str, Counts | FileCounts] = {**profile.file_counts, **profile.counts}
    if counted:
        rows.append(("MACs", {name: counts.macs for name, counts in counted.items()}))
        rows.append(("FLOPs", {name: counts.flops for name, counts in counted.items()}))
        rows.append(("parameters", {name: counts.params for name, counts in counted.items()}))
        memory = {name: counts.activation_bytes for name, counts in counted.items()}
        rows.append(("activations, bytes", {name: size for name, size in memory.items() if size is not None}))
    if profile.file_bytes:
        rows.append(("file bytes", dict(profile.file_bytes)))
    return rows


def _noise(images: int, shape: Shape) -> Tensor:
    return torch.randn(images, *shape, generator=torch.Generator().manual_seed(0))


def _image(shape: tuple[Any, ...]) -> Shape:
    if len(shape) < 2 or not all(isinstance(size, int) for size in shape[1:]):
        raise CompressError(
            f"the input has shape {shape}, expected fixed sizes behind the batch", "give --shape"
        )
    return tuple(int(size) for size in shape[1:])
