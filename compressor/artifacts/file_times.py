"""Time each proven file, in every runtime in which it was proven.

Files of one runtime are interleaved with the file that they are compared with. ``latency`` measures the two networks
of a run; this module measures every file that ships.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from compressor.artifacts.latency import Row, latencies
from compressor.artifacts.prove import Proof
from compressor.artifacts.runtimes import RUNTIMES
from compressor.errors import ExportError, ProfileError
from compressor.profiling.timing import quantile
from compressor.recipe import ProfileRecipe


def with_times(
    proofs: Sequence[Proof],
    files: Iterable[Path],
    image: Tensor,
    recipe: ProfileRecipe,
    *,
    against: Path,
    plain: str,
) -> tuple[list[Proof], tuple[str, ...]]:
    """The proofs with the times of their files, and notes on files that were not timed or are slower than ``plain``.

    ``plain``: the name of the ONNX file from which the other formats were made; they should not be slower.
    """
    paths = {path.name: path for path in files}
    timed, notes = list(proofs), []
    for name, runtime in RUNTIMES.items():
        places = [
            place
            for place, proof in enumerate(proofs)
            if proof.runtime == runtime.title and proof.passed and proof.file in paths
        ]
        if not places:
            continue
        subjects = {against.name: against} if "file" in runtime.takes else {}
        subjects |= {proofs[place].file: paths[proofs[place].file] for place in places}
        timing_recipe = replace(recipe, runtimes=(name,), batches=recipe.batches[:1], precision="fp32")
        try:
            ((row, *_), _) = latencies({}, subjects, image, timing_recipe)
        except (ExportError, ProfileError) as error:  # a file may work only with the batches of its proof
            notes.append(f"nothing was timed in {runtime.title}: {error}")
            continue
        for place in places:
            file = proofs[place].file
            timed[place] = replace(proofs[place], timing=_timing(row, file, against.name))
            if proofs[place].format != "onnx" and plain in row and _gain(row, plain, file, 0.9) < 1:
                slower = 1 / _gain(row, plain, file, 0.5)
                notes.append(
                    f"{file} takes {slower:.2f} times as long as {plain} in {runtime.title} on this machine"
                )
    return timed, tuple(notes)


def _timing(row: Row, file: str, against: str) -> dict[str, Any]:
    timing = {key: row[file][key] for key in ("median_ms", "p10_ms", "p90_ms")}
    timing |= {"batch": row["batch"], "threads": row["threads"], "rounds": len(row[file]["samples_ms"])}
    if against in row:
        timing |= {"against": against, "speedup": _gain(row, against, file, 0.5)}
    return timing


def _gain(row: Mapping[str, Any], before: str, after: str, share: float) -> float:
    """The quantile ``share`` of the speedups of ``after`` over ``before``, sample by sample."""
    pairs = zip(row[before]["samples_ms"], row[after]["samples_ms"], strict=True)
    return quantile([one / other for one, other in pairs], share)
