"""A file in other formats, each proven before it counts: write, run on real images, compare, or reject.

Networks come from names and folders (``subjects``) or from the run itself (``pipeline``); this file knows neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressor.cache import cache_root
from compressor.cutting.proof import Check
from compressor.data.split import Data
from compressor.distill import accuracy
from compressor.errors import CompressError, UsageError
from compressor.recipe import ExportRecipe
from export import (
    FORMATS,
    TOLERANCES,
    Artifact,
    Asked,
    EngineAsk,
    ExportError,
    Session,
    between_files,
    compare,
    derived,
    hard_batches,
    real_batches,
)

Array = np.ndarray[Any, np.dtype[Any]]
REJECTED = ".rejected"


@dataclass(frozen=True)
class Written:
    """One more file of a network, and what was found when it ran."""

    artifact: Artifact
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()
    accuracy: float | None = None


@dataclass(frozen=True)
class Floor:
    """The accuracy of the network on the test half of its data, below which a file may not fall far."""

    data: Data
    accuracy: float


def formats_of(recipe: ExportRecipe) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The formats beside ONNX to write, and why others are left out. What is asked for by name has to be possible."""
    chosen, left_out = [], []
    for name in FORMATS if "all" in recipe.to else recipe.to:
        problem = _problem(name)
        if name == "onnx":
            continue
        if problem is None:
            chosen.append(name)
        elif "all" in recipe.to:
            left_out.append(f"{name} is left out: {problem}")
        else:
            raise problem
    engines = [reason for reason in left_out if reason.startswith("tensorrt")]
    if engines:  # said once, with what to do elsewhere
        left_out = [reason for reason in left_out if reason not in engines]
        left_out.append(
            "TensorRT is not installed, so no engine was built; where it is: "
            "compress export student.onnx --to tensorrt --out student.engine"
        )
    return tuple(dict.fromkeys(chosen)), tuple(left_out)


def _problem(name: str) -> UsageError | None:
    from importlib.util import find_spec

    from export.tensorrt import INSTALL, available

    if name.startswith("tensorrt") and not available():
        return UsageError(f"`{name}` needs TensorRT, which is not installed", INSTALL)
    if name.startswith("openvino") and find_spec("openvino") is None:
        hint = "python -m pip install 'compress-to-edge[openvino]'"
        return UsageError(f"`{name}` needs the package openvino, which is not installed", hint)
    return None


def calibration_images(data: Data, recipe: ExportRecipe, seed: int) -> tuple[Array, ...]:
    """Training images, as they are tested: in batches, as many as the recipe says."""
    size = min(32, recipe.calibration_images)
    batches = data.train.batches(size, shuffle=seed)
    chosen = islice(batches, -(-recipe.calibration_images // size))
    return tuple(batch.images.numpy() for batch in chosen)


def written_all(
    names: Iterable[str],
    onnx: Path,
    recipe: ExportRecipe,
    reference: Callable[[Array], Array],
    images: Tensor,
    calibration: Sequence[Array] = (),
    floor: Floor | None = None,
) -> list[Written]:
    """Each format beside the ONNX file, under its name."""
    stem = onnx.name.removesuffix(FORMATS["onnx"].suffix)
    return [
        written(
            name,
            onnx,
            onnx.with_name(stem + FORMATS[name].suffix),
            recipe,
            reference,
            images,
            calibration,
            floor,
        )
        for name in names
    ]


def written(
    name: str,
    onnx: Path,
    target: Path,
    recipe: ExportRecipe,
    reference: Callable[[Array], Array],
    images: Tensor,
    calibration: Sequence[Array] = (),
    floor: Floor | None = None,
) -> Written:
    """Write the file, run it on ``images``, compare with ``reference``, and test it on the ``floor``'s data."""
    row = FORMATS[name]
    if row.calibrated and not calibration:
        raise UsageError(f"`{name}` needs images to calibrate on", "give a run folder, or --data")
    asked = Asked(
        tuple(calibration),
        recipe.calibration,
        engine=EngineAsk(tf32=recipe.tf32, cache=cache_root() / "engines"),
    )
    artifact = derived(name, onnx, target, asked)
    try:
        session = row.opens(target)
    except ExportError as error:
        note = f"{target.name} was not run here: {error}"
        return Written(artifact, (), (*artifact.notes, note))
    checks = [_compared(artifact, session, reference, images.numpy())]
    if not checks[0].passed and target.suffix == ".onnx":
        checks[0] = replace(checks[0], detail=f"{checks[0].detail}; {_first_layer(onnx, artifact, images)}")
    right = None
    if floor is not None:
        right = accuracy(lambda batch: torch.from_numpy(_ask(session, batch.numpy())), floor.data.test)
        checks.append(kept_accuracy(target.name, floor.accuracy, right, recipe.max_accuracy_drop))
    return Written(artifact, tuple(checks), artifact.notes, right)


def _compared(
    artifact: Artifact, session: Session, reference: Callable[[Array], Array], images: Array
) -> Check:
    tolerance = TOLERANCES[artifact.precision]
    # Eight bits end where the calibration images ended: noise and extremes are cut off, as they should be.
    batches = [*real_batches(images), *([] if artifact.precision == "int8" else hard_batches(images))]
    verdict = compare(
        f"{artifact.path.name} equals PyTorch",
        reference,
        lambda batch: _ask(session, batch),
        batches,
        relative_tolerance=tolerance.relative,
        least_cosine=tolerance.cosine,
    )
    detail = f"{verdict.detail}; mean difference {verdict.mean_abs_error:.2g}, cosine {verdict.cosine:.6f}"
    return Check(verdict.name, verdict.passed, verdict.max_abs_error, verdict.tolerance, detail)


def kept_accuracy(name: str, before: float, after: float, allowed_points: float) -> Check:
    """Top-1 of a file against that of the network it was made of."""
    lost = before - after
    detail = f"top-1 {after:.2%}, {before:.2%} in PyTorch"
    return Check(
        f"{name} keeps the accuracy", lost * 100 <= allowed_points, lost, allowed_points / 100, detail
    )


def _first_layer(onnx: Path, artifact: Artifact, images: Tensor) -> str:
    """A file was made of another, so their values have the same names."""
    session = FORMATS["onnx"].opens(onnx)
    feed = {session.inputs[0].name: images[:1].numpy()}
    try:
        found = between_files(onnx, artifact.path, feed, TOLERANCES[artifact.precision].relative)
    except Exception as error:  # it explains another failure, and must not hide it
        return f"the first layer could not be found: {str(error).splitlines()[0]}"
    return str(found) if found else "no single layer differs by more than the tolerance"


def settled(artifacts: Iterable[Artifact], checks: Iterable[Check]) -> list[Artifact]:
    """Files of which a check failed get the suffix ``.rejected``: nobody ships them by mistake."""
    failed = [check.name for check in checks if not check.passed]
    return [
        _rejected(artifact) if any(name.startswith(f"{artifact.path.name} ") for name in failed) else artifact
        for artifact in artifacts
    ]


def _rejected(artifact: Artifact) -> Artifact:
    path = artifact.path.with_name(artifact.path.name + REJECTED)
    try:
        artifact.path.replace(path)
    except OSError as error:
        raise CompressError(f"cannot rename `{artifact.path}`: {error.strerror}") from error
    return replace(artifact, path=path)


def _ask(session: Session, batch: Array) -> Array:
    return session.run({session.inputs[0].name: batch})[session.outputs[0].name]
