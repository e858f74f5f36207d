"""One comparison for every file: what passes, what fails, and what was not run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from compressor.artifacts.prove import in_pytorch, kept_accuracy, truth_of_file, truth_of_network
from compressor.artifacts.write import (
    Source,
    calibration_images,
    checked,
    engine_rows,
    formats_of,
    settled,
    written,
    written_all,
    written_onnx,
)
from compressor.errors import UsageError
from compressor.exporting import FORMATS, NEEDS, TOLERANCES
from compressor.exporting.verdict import Tolerance
from compressor.recipe import ExportRecipe
from compressor.run.report.report_rows import PROOF_HEAD, proof_rows
from tests.compressor.test_comparisons import Staged, few
from tests.export import stand_in
from tests.export.networks import of_one_batch
from tests.export.networks import settled as with_statistics
from tests.export.test_int8_sensitivity import IMAGES as HARMFUL_IMAGES
from tests.export.test_int8_sensitivity import OneHarmful

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
RECIPE = ExportRecipe(to=("onnx",), max_accuracy_drop=20.0)


@pytest.fixture
def network() -> nn.Module:
    return with_statistics(Staged()).eval()


@pytest.fixture
def source(network: nn.Module, tmp_path: Path) -> Source:
    path = tmp_path / "n.onnx"
    written_onnx(network, IMAGES[:1], path, RECIPE, {})
    return Source(path, tmp_path / "n", network, IMAGES[:1], calibration_images(few(), 0))


def test_a_file_is_proven_in_every_runtime_of_its_format_that_is_here(
    network: nn.Module, source: Source
) -> None:
    data = few()
    truth = truth_of_network(network, IMAGES, data)
    file = checked(written_onnx(network, IMAGES[:1], source.onnx, RECIPE, {}), truth, RECIPE)

    expected = ["ONNX Runtime", *([] if NEEDS["openvino"].missing else ["OpenVINO"])]
    assert [proof.runtime for proof in file.proofs] == expected
    assert file.passed
    for proof in file.proofs:
        assert proof.passed
        assert proof.accuracy == truth.accuracy
        assert proof.agreement == 1.0
        assert proof.max_abs_error is not None
        assert proof.tolerance is not None
        assert proof.max_abs_error <= proof.tolerance
        # One by one, three, six, three of noise, three ends of the range.
        assert proof.samples == 4 + 3 + 6 + 3 + 3
    names = {check.name for check in file.checks}
    assert {"n.onnx equals PyTorch in ONNX Runtime", "n.onnx keeps the accuracy in ONNX Runtime"} <= names


def test_a_file_of_another_network_fails_names_the_layer_and_is_rejected(
    network: nn.Module, source: Source
) -> None:
    with torch.no_grad():
        network.get_submodule("deep.0").weight[0] += 1.0  # type: ignore[operator, index]
    truth = truth_of_network(network, IMAGES)
    other = written_onnx(Staged(seed=5).eval(), IMAGES[:1], source.onnx, RECIPE, {})
    file = checked(other, truth, RECIPE)

    assert not file.passed
    assert "first differs at `stem" in file.checks[0].detail
    rejected = settled(file)
    assert rejected.artifact is not None
    assert rejected.artifact.path.name == "n.onnx.rejected"
    assert rejected.artifact.path.exists()
    assert not source.onnx.exists()


def test_a_file_that_loses_accuracy_fails_although_it_is_near(network: nn.Module, source: Source) -> None:
    truth = replace(truth_of_network(network, IMAGES, few()), accuracy=1.0)
    strict = replace(RECIPE, max_accuracy_drop=0.0)
    file = checked(written_onnx(network, IMAGES[:1], source.onnx, RECIPE, {}), truth, strict)
    equal, kept, *_ = file.checks
    assert equal.passed
    assert not kept.passed
    assert "before" in kept.detail
    assert not any(proof.passed for proof in file.proofs)


@pytest.mark.parametrize(("after", "passes"), [(0.75, True), (0.745, True), (0.74, False), (0.9, True)])
def test_accuracy_is_kept_up_to_the_points_that_are_allowed(after: float, passes: bool) -> None:
    assert kept_accuracy("x", 0.75, after, 0.5).passed == passes


def test_an_engine_is_written_and_not_run_without_a_gpu(source: Source, network: nn.Module) -> None:
    if NEEDS["tensorrt"].missing or torch.cuda.is_available():
        pytest.skip("TensorRT is not installed, or there is a GPU")
    file = written("tensorrt", source, truth_of_network(network, IMAGES), RECIPE)
    (proof,) = file.proofs
    assert proof.passed is None
    assert "no CUDA device" in proof.detail
    assert file.passed  # what was not run has not failed
    assert any("not run here" in note for note in file.notes)


def test_an_engine_that_runs_is_proven_and_its_layers_are_in_the_report(
    source: Source, network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.install(monkeypatch)
    file = written("tensorrt", source, truth_of_network(network, IMAGES), RECIPE)
    assert [proof.passed for proof in file.proofs] == [True]
    (rows,) = engine_rows([file]).values()
    assert {"name", "kind", "nodes", "formats", "kernel", "median_ms"} == rows[0].keys()
    assert rows[0]["median_ms"] == 0.5
    assert any("stem.0/Conv" in row["nodes"] for row in rows)


@pytest.mark.parametrize("runtime", ["ONNX Runtime", "OpenVINO"])
def test_a_file_that_does_not_open_where_its_runtime_is_has_failed(
    runtime: str, network: nn.Module, source: Source
) -> None:
    if runtime == "OpenVINO" and NEEDS["openvino"].missing:
        pytest.skip("openvino is not installed")
    artifact = written_onnx(network, IMAGES[:1], source.onnx, RECIPE, {})
    source.onnx.write_bytes(source.onnx.read_bytes()[:-500])
    file = checked(artifact, truth_of_network(network, IMAGES), RECIPE)
    (proof,) = [proof for proof in file.proofs if proof.runtime == runtime]
    assert proof.passed is False
    assert "cannot open" in proof.detail
    assert not file.passed


def test_of_a_file_the_truth_is_the_file(source: Source) -> None:
    truth = truth_of_file(source.onnx, IMAGES)
    file = written("onnx-fp16", Source(source.onnx, source.stem), truth, RECIPE)
    assert file.passed
    assert file.checks[0].name == "n.fp16.onnx equals n.onnx in ONNX Runtime"


@pytest.mark.parametrize("name", [name for name, row in FORMATS.items() if row.of == "onnx"])
def test_a_file_of_one_batch_becomes_every_format_that_is_made_of_files(name: str, source: Source) -> None:
    needs = FORMATS[name].needs
    if needs is not None and NEEDS[needs].missing:
        pytest.skip(f"{needs} is not installed")
    path = of_one_batch(source.onnx, 4)
    truth, strict = truth_of_file(path, IMAGES, few()), replace(RECIPE, max_accuracy_drop=100.0)
    file = written(name, Source(path, source.stem, calibration=source.calibration), truth, strict)
    assert file.passed, [check.detail for check in file.checks]
    assert [proof.passed for proof in file.proofs if proof.runtime != "TensorRT"].count(True) >= (
        needs != "tensorrt"
    )


def test_the_layers_that_harm_are_found_in_a_file_of_one_batch(source: Source) -> None:
    path = of_one_batch(source.onnx, 4)
    strict = replace(truth_of_file(path, IMAGES, few()), accuracy=1.5)  # more than any file can have
    file = written("onnx-int8", Source(path, source.stem, calibration=source.calibration), strict, RECIPE)
    assert any("it also fails with the" in note for note in file.notes)
    assert "first" in file.checks[0].detail or file.checks[0].passed


def test_what_is_made_of_a_network_is_not_made_of_a_file(source: Source) -> None:
    with pytest.raises(UsageError, match="`executorch` is made from a network"):
        written("executorch", Source(source.onnx, source.stem), truth_of_file(source.onnx, IMAGES), RECIPE)


@pytest.mark.parametrize("name", ["onnx-int8", "onnx-int8-nvidia"])
def test_layers_that_eight_bits_harm_stay_float32_until_the_file_passes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = OneHarmful().eval()
    images = torch.from_numpy(HARMFUL_IMAGES)
    onnx = written_onnx(network, images[:1], tmp_path / "n.onnx", RECIPE, {}).path
    truth = truth_of_network(network, images)
    truth = replace(truth, images=truth.images[:8])
    source = Source(onnx, tmp_path / "n", network, images[:1], (HARMFUL_IMAGES,))
    monkeypatch.setitem(TOLERANCES, "int8", Tolerance(0.01, 0.9999))
    file = written(name, source, truth, RECIPE)

    assert file.passed
    assert any("harmful/Conv stays float32" in note for note in file.notes)
    assert not any("last/Conv" in note for note in file.notes)


def test_an_int8_file_that_no_few_layers_can_mend_says_so(network: nn.Module, source: Source) -> None:
    strict = replace(truth_of_network(network, IMAGES, few()), accuracy=1.5)  # more than any file can have
    file = written("onnx-int8", source, strict, replace(RECIPE, max_accuracy_drop=0.0))
    assert not file.passed
    assert any("it also fails with the" in note for note in file.notes)
    assert not any("stays float32" in note for note in file.notes)


def test_where_one_format_cannot_be_written_the_others_are(source: Source, network: nn.Module) -> None:
    source.onnx.write_bytes(source.onnx.read_bytes()[:-500])  # torn after it was proven
    truth, recipe = truth_of_network(network, IMAGES), replace(RECIPE, to=("onnx", "onnx-fp16"))
    (file,) = written_all(("onnx", "onnx-fp16"), source, truth, recipe)
    assert file.artifact is None
    assert not file.passed
    assert file.checks[0].name == "onnx-fp16 is written"


def test_auto_is_onnx_and_an_engine_where_tensorrt_is(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, left_out = formats_of(ExportRecipe())
    if NEEDS["tensorrt"].missing:
        assert chosen == ("onnx",)
    else:
        assert (chosen, left_out) == (("onnx", "tensorrt"), ())

    for name, need in NEEDS.items():
        monkeypatch.setitem(NEEDS, name, replace(need, found=lambda module: False))
    chosen, left_out = formats_of(ExportRecipe())
    assert chosen == ("onnx",)
    (told,) = left_out
    assert "compress export student.onnx --to tensorrt --out student.engine" in told
    chosen, left_out = formats_of(ExportRecipe(to=("all",)))
    assert chosen == tuple(name for name, row in FORMATS.items() if row.needs is None)
    assert len(left_out) == 4  # TensorRT once, OpenVINO in two precisions, ExecuTorch
    with pytest.raises(UsageError, match="`openvino` needs OpenVINO, which is not installed") as caught:
        formats_of(ExportRecipe(to=("onnx", "openvino")))
    assert caught.value.hint == NEEDS["openvino"].install


def test_rows_of_the_table_have_its_columns_and_begin_with_the_truth(
    network: nn.Module, source: Source
) -> None:
    truth = truth_of_network(network, IMAGES)
    file = checked(written_onnx(network, IMAGES[:1], source.onnx, RECIPE, {}), truth, RECIPE)
    rows = proof_rows([proof.to_dict() for proof in (in_pytorch("network", truth), *file.proofs)])
    assert all(len(row) == len(PROOF_HEAD) for row in rows)
    assert rows[0][:3] == ("network", "PyTorch", "")
    assert rows[1][:3] == ("n.onnx", "ONNX Runtime", "passed")
    assert "–" in rows[0]
