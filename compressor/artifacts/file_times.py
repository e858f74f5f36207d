"""How long each file takes that was proven, in every runtime that it was proven in.

Files of one runtime are interleaved, with the file that they are compared with among them. What ``latency`` measures
for the two networks of a run is measured here for everything that ships.
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
    """The proofs with the times of their files, and notes: what could not be timed, and what is slower.

    ``plain``: the name of the ONNX file that those of other formats were made of, and should not be slower than.
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
        asked = replace(recipe, runtimes=(name,), batches=recipe.batches[:1], precision="fp32")
        try:
            ((row, *_), _) = latencies({}, subjects, image, asked)
        except (ExportError, ProfileError) as error:  # it was proven with other batches
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
    found = {key: row[file][key] for key in ("median_ms", "p10_ms", "p90_ms")}
    found |= {"batch": row["batch"], "threads": row["threads"], "rounds": len(row[file]["samples_ms"])}
    if against in row:
        found |= {"against": against, "speedup": _gain(row, against, file, 0.5)}
    return found


def _gain(row: Mapping[str, Any], before: str, after: str, share: float) -> float:
    pairs = zip(row[before]["samples_ms"], row[after]["samples_ms"], strict=True)
    return quantile([one / other for one, other in pairs], share)
