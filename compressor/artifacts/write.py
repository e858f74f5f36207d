"""Write the files of a network in each requested format, prove them, and reject those whose proof fails.

Networks come from names and folders (``subjects``) or from the run itself (``pipeline``); this file imports neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor, nn

from compressor.artifacts.int8_layers import fewest
from compressor.artifacts.prove import Proof, Truth, proven
from compressor.artifacts.runtimes import kind_of
from compressor.base.cache import cache_root
from compressor.base.checks import Check
from compressor.data.split import Data
from compressor.errors import CompressError, ExportError, UsageError
from compressor.exporting import (
    FORMATS,
    NEEDS,
    Artifact,
    Asked,
    EngineAsk,
    EngineLayer,
    derived,
    engine_layers,
    load_engine,
    sensitivities,
)
from compressor.exporting.test_inputs import in_parts
from compressor.recipe import ExportRecipe
from compressor.recipe.names import ALL, AUTO

Array = np.ndarray[Any, np.dtype[Any]]
REJECTED = ".rejected"
NO_ENGINE = (
    "TensorRT is not installed, so no engine was built; on a machine with TensorRT: "
    "compress export student.onnx --to tensorrt --out student.engine"
)
RANKING_IMAGES = 32
"""Images by which layers are ranked."""
CALIBRATION_IMAGES, CALIBRATION_BATCH = 128, 32
"""Training images for INT8: with these it takes at most 0.14 points of top-1 (docs/exporting.md)."""


@dataclass(frozen=True)
class Source:
    """The source of files: the network, if there is one, and its ONNX file.

    ``stem``: the path of the files without the suffix of a format.
    """

    onnx: Path
    stem: Path
    network: nn.Module | None = None
    image: Tensor | None = None
    calibration: Sequence[Array] = ()


@dataclass(frozen=True)
class Written:
    """A file with the results of its runs. A file that could not be written has a check with the reason."""

    artifact: Artifact | None
    proofs: tuple[Proof, ...] = ()
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    engine: tuple[EngineLayer, ...] = ()
    """The layers of an engine that ran here, with their times."""

    @property
    def passed(self) -> bool:
        """True if no check failed; a proof that was not run here has not failed."""
        return all(check.passed for check in self.checks)


def formats_of(recipe: ExportRecipe) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The formats to write, and why others are left out. A format chosen by name has to be possible.

    ``auto`` is ONNX, and an engine where TensorRT is installed; ``all`` is every format that can be written here.
    """
    chosen: list[str] = []
    left_out: list[str] = []
    for name, by_name in _wanted(recipe.to):
        needs = FORMATS[name].needs
        if needs is None or not NEEDS[needs].missing:
            chosen.append(name)
        elif by_name:
            raise UsageError(
                f"`{name}` needs {NEEDS[needs].title}, which is not installed", NEEDS[needs].install
            )
        elif needs == "tensorrt":
            left_out.append(NO_ENGINE)
        else:
            left_out.append(f"{name} is left out: {NEEDS[needs].title} is not installed")
    return tuple(dict.fromkeys(chosen)), tuple(dict.fromkeys(left_out))


def _wanted(requested: Iterable[str]) -> list[tuple[str, bool]]:
    """The formats to write; the flag is True if the format was chosen by its name."""
    groups = {AUTO: ("onnx", "tensorrt"), ALL: tuple(FORMATS)}
    named = {name for name in requested if name not in groups}
    return [(name, name in named) for choice in requested for name in groups.get(choice, (choice,))]


def calibration_images(data: Data, seed: int) -> tuple[Array, ...]:
    """`CALIBRATION_IMAGES` training images, in batches."""
    batches = data.train.batches(CALIBRATION_BATCH, shuffle=seed)
    chosen = islice(batches, CALIBRATION_IMAGES // CALIBRATION_BATCH)
    return tuple(batch.images.numpy() for batch in chosen)


def export_options(
    recipe: ExportRecipe, calibration: Sequence[Array] = (), metadata: Mapping[str, str] | None = None
) -> Asked:
    """The options of the formats in a recipe."""
    return Asked(
        tuple(calibration),
        recipe.int8_weight_bits,
        engine=EngineAsk(cache=cache_root() / "engines"),
        opset=recipe.opset,
        metadata=metadata or {},
        free_size=recipe.free_size,
    )


def written_onnx(
    network: nn.Module, image: Any, path: Path, recipe: ExportRecipe, metadata: Mapping[str, str]
) -> Artifact:
    """Write the network as an ONNX file, without a proof."""
    return FORMATS["onnx"].function(network, image, path, export_options(recipe, metadata=metadata))


def checked(artifact: Artifact, truth: Truth, recipe: ExportRecipe, *, ships: bool = True) -> Written:
    """Prove a file that was written; an engine that ran also gets the times of its layers."""
    proofs, checks = proven(artifact, truth, recipe, ships=ships)
    unproven = [f"{proof.file} in {proof.runtime}: {proof.detail}" for proof in proofs if not proof.passed]
    notes = tuple(f"{artifact.path.name}: {note}" for note in artifact.notes)
    ran = kind_of(artifact.path) == "engine" and all(proof.passed is not None for proof in proofs)
    layers = _layers(artifact.path, truth) if ran else ()
    return Written(artifact, tuple(proofs), tuple(checks), (*notes, *unproven), layers)


def _layers(path: Path, truth: Truth) -> tuple[EngineLayer, ...]:
    """Time the layers at the engine's smallest batch; empty for an engine that does not load (its proof failed)."""
    try:
        engine = load_engine(path)
    except ExportError:
        return ()
    ((images, _), *_) = in_parts(truth.images[:1], *engine.batches)
    return engine_layers(engine, {engine.inputs[0].name: images.astype(engine.inputs[0].dtype)})


def written(
    name: str, source: Source, truth: Truth, recipe: ExportRecipe, target: Path | None = None
) -> Written:
    """Write one format beside the others, or as ``target``, and prove it."""
    row = FORMATS[name]
    target = target or source.stem.with_name(source.stem.name + row.suffix)
    # Half precision uses the calibration images too, if there are any.
    options = export_options(recipe, source.calibration)
    if row.calibrated:
        if not source.calibration:
            raise UsageError(f"`{name}` needs images to calibrate on", "give a run folder, or --data")
        return _within_the_drop(name, source, truth, recipe, target)
    if row.of is not None:
        return checked(derived(name, source.onnx, target, options), truth, recipe)
    if source.network is None:
        raise UsageError(
            f"`{name}` is made from a network, and `{source.onnx}` is a file",
            "give the run, the student folder or the model name instead",
        )
    return checked(row.function(source.network, source.image, target, options), truth, recipe)


def _within_the_drop(name: str, source: Source, truth: Truth, recipe: ExportRecipe, target: Path) -> Written:
    """Write an INT8 file with the fewest float32 layers with which it passes; with none if it never passes."""
    options = export_options(recipe, source.calibration)

    def made(exclude: tuple[str, ...]) -> Written:
        artifact = derived(name, source.onnx, target, replace(options, exclude=exclude))
        return checked(artifact, truth, recipe)

    first = made(())
    if first.passed:
        return first
    # Sensitivities need an INT8 file in ONNX: for another format, that of the format it is made from.
    with TemporaryDirectory() as folder:
        row = FORMATS[name]
        quantised = name if row.suffix.endswith(".onnx") else str(row.of)
        plain = derived(quantised, source.onnx, Path(folder) / "int8.onnx", options).path
        order = sensitivities(source.onnx, plain, np.concatenate(source.calibration)[:RANKING_IMAGES])
    tried: dict[tuple[str, ...], bool] = {}
    last = first

    def passes(exclude: tuple[str, ...]) -> bool:
        nonlocal last
        last = made(exclude)
        tried[exclude] = last.passed
        return last.passed

    exclude = fewest(list(order), passes)
    if exclude is None:
        most = max(map(len, tried), default=0)
        note = f"{target.name}: it also fails with the {most} most sensitive layers in float32"
        last = made(())
        return replace(last, notes=(*last.notes, note))
    # The file on disk is the one that was tried last.
    return last if exclude == next(reversed(tried)) else made(exclude)


def written_all(names: Iterable[str], source: Source, truth: Truth, recipe: ExportRecipe) -> list[Written]:
    """Write each format except ONNX, which exists already. One that cannot be written does not stop the others."""
    files = []
    for name in names:
        if name == "onnx":
            continue
        try:
            files.append(written(name, source, truth, recipe))
        except ExportError as error:
            by_name = dict(_wanted(recipe.to))[name]
            fact = f"{name} could not be written: {error}"
            failed = Check(f"{name} is written", False, float("inf"), 0.0, str(error))
            files.append(Written(None, checks=(failed,)) if by_name else Written(None, notes=(fact,)))
    return files


def engine_rows(files: Iterable[Written]) -> dict[str, list[dict[str, Any]]]:
    """The layers of every engine that ran here, by its file."""
    return {
        file.artifact.path.name: [layer.to_dict() for layer in file.engine]
        for file in files
        if file.artifact is not None and file.engine
    }


def settled(file: Written) -> Written:
    """Add the suffix ``.rejected`` to a file with a failed check, so that nobody ships it by mistake."""
    if file.passed or file.artifact is None:
        return file
    path = file.artifact.path.with_name(file.artifact.path.name + REJECTED)
    try:
        file.artifact.path.replace(path)
    except OSError as error:
        raise CompressError(f"cannot rename `{file.artifact.path}`: {error.strerror}") from error
    return replace(file, artifact=replace(file.artifact, path=path))
