"""Times of files: beside what they are compared with, and only of what was proven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressor.artifacts import file_times
from compressor.artifacts.file_times import with_times
from compressor.artifacts.prove import Proof
from compressor.exporting import to_onnx
from compressor.recipe import ProfileRecipe
from compressor.run.report.report_rows import PROOF_HEAD, how_timed, proof_rows

IMAGE = torch.zeros(1, 3, 8, 8)
RECIPE = ProfileRecipe(samples=4, batches=(2, 5))


def proof(file: str, runtime: str = "ONNX Runtime", *, passed: bool | None = True) -> Proof:
    return Proof(file, "onnx-int8" if "int8" in file else "onnx", "fp32", runtime, passed, "")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(5)).eval()
    network(IMAGE)
    names = ("teacher.onnx", "student.onnx", "student.int8.onnx")
    return {name: to_onnx(network, IMAGE, tmp_path / name).path for name in names}


def test_what_was_proven_is_timed_and_the_rest_is_not(files: dict[str, Path]) -> None:
    proofs = [
        Proof("student", "network", "fp32", "PyTorch", True, ""),
        proof("teacher.onnx"),
        proof("student.onnx"),
        proof("student.int8.onnx", passed=False),
        proof("student.int8.onnx", "ONNX Runtime, unfused"),
        proof("student.onnx", "TensorRT", passed=None),
    ]
    timed, _ = with_times(
        proofs, files.values(), IMAGE, RECIPE, against=files["teacher.onnx"], plain="student.onnx"
    )
    assert [each.timing is not None for each in timed] == [False, True, True, False, False, False]
    assert [replace(each, timing=None) for each in timed] == proofs
    timing = timed[2].timing
    assert timing is not None
    assert (timing["batch"], timing["threads"], timing["rounds"]) == (2, 1, 4)
    assert timing["p10_ms"] <= timing["median_ms"] <= timing["p90_ms"]
    assert timing["against"] == "teacher.onnx"
    assert timed[1].timing is not None
    assert timed[1].timing["speedup"] == 1.0


def samples(*each: float) -> dict[str, Any]:
    return {"samples_ms": each, "median_ms": sorted(each)[1], "p10_ms": each[0], "p90_ms": each[-1]}


@pytest.mark.parametrize(("int8", "slower"), [((2.0, 2.1, 2.2), True), ((0.5, 2.0, 2.0), False)])
def test_a_file_of_another_format_that_is_slower_is_named(
    int8: tuple[float, ...], slower: bool, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slower in nearly all rounds, not in most of them: a machine with neighbours makes any file slower at times."""

    def told(networks: object, subjects: Mapping[str, Path], image: Tensor, recipe: ProfileRecipe) -> Any:
        row = {
            "batch": 1, "threads": 1, "teacher.onnx": samples(4.0, 4.0, 4.0),
            "student.onnx": samples(1.0, 1.0, 1.0), "student.int8.onnx": samples(*int8),
        }  # fmt: skip
        assert list(subjects) == ["teacher.onnx", "student.onnx", "student.int8.onnx"]
        assert recipe.runtimes == ("onnxruntime",)
        return (row,), ()

    monkeypatch.setattr(file_times, "latencies", told)
    timed, notes = with_times(
        [proof("teacher.onnx"), proof("student.onnx"), proof("student.int8.onnx")],
        files.values(), IMAGE, RECIPE, against=files["teacher.onnx"], plain="student.onnx",
    )  # fmt: skip
    expected = "student.int8.onnx takes 2.10 times as long as student.onnx in ONNX Runtime on this machine"
    assert notes == ((expected,) if slower else ())
    rows = proof_rows([each.to_dict() for each in timed])
    assert all(len(row) == len(PROOF_HEAD) for row in rows)
    assert [row[5:7] for row in rows[:2]] == [("4.000", "1.00×"), ("1.000", "4.00×")]
    told_by = how_timed([each.to_dict() for each in timed])
    assert told_by == (
        "Times of files: median of 3 interleaved rounds, batch 1, threads 1; "
        "speed is against teacher.onnx in the same runtime."
    )


def test_a_batch_that_a_file_does_not_take_is_told_and_ends_nothing(tmp_path: Path) -> None:
    pytest.importorskip("executorch", reason="executorch is not installed")
    from compressor.exporting import FORMATS, Asked, EngineAsk

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    asked = Asked(engine=EngineAsk(batches=(1, 1, 2)))
    path = FORMATS["executorch"].function(network, IMAGE, tmp_path / "n.pte", asked).path
    recipe = replace(RECIPE, batches=(4,))
    timed, (note,) = with_times(
        [proof("n.pte", "ExecuTorch")], [path], IMAGE, recipe, against=path, plain="n.onnx"
    )
    assert timed[0].timing is None
    assert note.startswith("nothing was timed in ExecuTorch: candidate `n.pte in executorch` cannot be timed")
    assert how_timed([each.to_dict() for each in timed]) is None
    assert proof_rows([each.to_dict() for each in timed])[0][5:7] == ("–", "–")
