"""Prove that a file computes the same as its network: one comparison, and one table row, per format and runtime.

This module writes no file, and does not decide what happens to a file that fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.base.checks import Check
from compressor.data.split import Data
from compressor.errors import ExportError, NotHereError
from compressor.exporting import (
    FORMATS,
    NEEDS,
    RUNNERS,
    TOLERANCES,
    Artifact,
    Session,
    between_files,
    compare,
    from_pytorch,
    hard_batches,
    open_session,
    real_batches,
)
from compressor.exporting.trees import outputs_by_name
from compressor.exporting.verdict import Tolerance
from compressor.recipe import ExportRecipe
from compressor.training import accuracy

Array = np.ndarray[Any, np.dtype[Any]]
Answers = Callable[[Array], Any]
"""From images to one output, or to several by their names."""


@dataclass(frozen=True)
class Truth:
    """The reference for files: a network, or the ONNX file from which they were made; and the images to compare on.

    ``data``: if known, the accuracy of each file on the test half is compared with the reference's (``accuracy``).
    """

    answers: Answers
    images: Array
    origin: nn.Module | Path
    data: Data | None = None
    accuracy: float | None = None

    @property
    def name(self) -> str:
        """The name of the reference."""
        return self.origin.name if isinstance(self.origin, Path) else "PyTorch"


def truth_of_network(network: nn.Module, images: Tensor, data: Data | None = None) -> Truth:
    """The outputs of a network in PyTorch on this machine."""

    def answers(batch: Array) -> Any:
        with torch.no_grad():
            named = outputs_by_name(network(torch.from_numpy(batch)), {})
        arrays = {name: tensor.numpy() for name, tensor in named.items()}
        return arrays if len(arrays) > 1 else next(iter(arrays.values()))

    return _with_data(Truth(answers, images.numpy(), network), data)


def truth_of_file(path: Path, images: Tensor, data: Data | None = None) -> Truth:
    """The outputs of an ONNX file in ONNX Runtime on this machine."""
    return _with_data(Truth(open_session(path).answers, images.numpy(), path), data)


def _with_data(truth: Truth, data: Data | None) -> Truth:
    if data is None:
        return truth
    return Truth(truth.answers, truth.images, truth.origin, data, _accuracy(truth.answers, data))


@dataclass(frozen=True)
class Proof:
    """One file in one runtime. ``passed`` is None where it was not run; ``detail``: the result, or the reason."""

    file: str
    format: str
    precision: str
    runtime: str
    passed: bool | None
    detail: str
    max_abs_error: float | None = None
    tolerance: float | None = None
    mean_abs_error: float | None = None
    cosine: float | None = None
    agreement: float | None = None
    samples: int = 0
    accuracy: float | None = None
    timing: Mapping[str, Any] | None = None
    """Milliseconds, and the speedup over the file that it is timed against."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, which have no infinity."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


def in_pytorch(name: str, truth: Truth) -> Proof:
    """The first row of the table: the reference of all others."""
    return Proof(
        name, "network", "fp32", truth.name, True, "what the files are compared with", accuracy=truth.accuracy
    )


def proven(
    artifact: Artifact, truth: Truth, recipe: ExportRecipe, *, ships: bool = True
) -> tuple[list[Proof], list[Check]]:
    """Prove the artifact in each installed runtime of its format: rows of the table, and their checks.

    A file that does not ship, as a teacher's, is proven in the first runtime alone.
    """
    proofs, checks = [], []
    for runner in _runners(artifact) if ships else FORMATS[artifact.format].runs_in[:1]:
        proof, own_checks = _in(runner, artifact, truth, recipe)
        proofs.append(proof)
        # A runtime that happens to be installed has its row; it rejects no file that another one runs.
        if runner == FORMATS[artifact.format].runs_in[0] or _is_named(runner, recipe):
            checks += own_checks
    return proofs, checks


def _runners(artifact: Artifact) -> Iterator[str]:
    """The first runtime always, so that its absence is reported; the others if they are installed."""
    first, *others = FORMATS[artifact.format].runs_in
    yield first
    for name in others:
        needs = RUNNERS[name].needs
        if needs is None or not NEEDS[needs].missing:
            yield name


def _is_named(runner: str, recipe: ExportRecipe) -> bool:
    """True for a runtime for which a format is asked by its name."""
    return any(name in FORMATS and FORMATS[name].runs_in[0] == runner for name in recipe.to)


def _in(runner: str, artifact: Artifact, truth: Truth, recipe: ExportRecipe) -> tuple[Proof, list[Check]]:
    about = (artifact.path.name, artifact.format, artifact.precision, RUNNERS[runner].title)
    name = f"{artifact.path.name} equals {truth.name} in {RUNNERS[runner].title}"
    try:
        return _compared(runner, RUNNERS[runner].opens(artifact.path), about, name, artifact, truth, recipe)
    except NotHereError as error:
        return Proof(*about, None, f"not run here: {error}"), []
    except ExportError as error:  # the runtime is installed, but the file does not open or run in it
        return Proof(*about, False, str(error)), [
            Check(name, False, math.inf, 0.0, str(error), file=about[0], runtime=about[3])
        ]


def _compared(
    runner: str,
    session: Session,
    about: tuple[str, str, str, str],
    name: str,
    artifact: Artifact,
    truth: Truth,
    recipe: ExportRecipe,
) -> tuple[Proof, list[Check]]:
    tolerance = TOLERANCES[artifact.precision]
    # Eight bits end where the calibration images ended: noise and extremes are cut off, as they should be.
    hard = [] if artifact.precision == "int8" else hard_batches(truth.images)
    verdict = compare(
        name,
        truth.answers,
        session.answers,
        [*real_batches(truth.images), *hard],
        relative_tolerance=tolerance.relative,
        least_cosine=tolerance.cosine,
    )
    detail = f"{verdict.detail}; mean difference {verdict.mean_abs_error:.2g}, cosine {verdict.cosine:.6f}"
    if not verdict.passed and RUNNERS[runner].explains:
        detail += f"; {_first_layer(artifact.path, truth, tolerance)}"
    checks = [
        Check(
            name,
            verdict.passed,
            verdict.max_abs_error,
            verdict.tolerance,
            detail,
            file=about[0],
            runtime=about[3],
        )
    ]
    top1 = None
    if truth.data is not None and truth.accuracy is not None:
        top1 = _accuracy(session.answers, truth.data)
        title = f"{artifact.path.name} keeps the accuracy in {RUNNERS[runner].title}"
        kept = kept_accuracy(title, truth.accuracy, top1, recipe.max_accuracy_drop)
        checks.append(replace(kept, file=about[0], runtime=about[3]))
    proof = Proof(
        *about,
        passed=all(check.passed for check in checks),
        detail=detail,
        max_abs_error=verdict.max_abs_error,
        tolerance=verdict.tolerance,
        mean_abs_error=verdict.mean_abs_error,
        cosine=verdict.cosine,
        agreement=verdict.agreement,
        samples=verdict.samples,
        accuracy=top1,
    )
    return proof, checks


def kept_accuracy(name: str, before: float, after: float, allowed_points: float) -> Check:
    """Check the top-1 accuracy of a file against that of its source."""
    lost = before - after
    detail = f"top-1 {after:.2%}, {before:.2%} before"
    # Allow for rounding: in floating point 0.75 - 0.745 is a little more than half a point.
    return Check(name, lost * 100 <= allowed_points + 1e-9, lost, allowed_points / 100, detail)


def _accuracy(answers: Answers, data: Data) -> float:
    def logits(batch: Tensor) -> Tensor:
        found = answers(batch.numpy())
        return torch.from_numpy(next(iter(found.values())) if isinstance(found, Mapping) else found)

    return accuracy(logits, data.test)


def _first_layer(path: Path, truth: Truth, tolerance: Tolerance) -> str:
    """The first layer in which the file differs from its network, or from the file that it was made from."""
    image, origin = truth.images[:1], truth.origin
    try:
        if isinstance(origin, Path):
            layer = between_files(origin, path, image, tolerance.relative)
        else:
            layer = from_pytorch(origin, path, torch.from_numpy(image), tolerance.relative)
    except Exception as error:  # this text explains another failure: an error here must not hide that one
        return f"the first layer could not be found: {str(error).splitlines()[0]}"
    return str(layer) if layer else "no single layer differs by more than the tolerance"
