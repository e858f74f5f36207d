"""Sides of a check: read, saved as a baseline, and refused if they are not valid."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from compressor.commands.check.exact import Limits, compare_exactly
from compressor.commands.check.sides import read_side, refuse_to_overwrite, save_baseline
from compressor.errors import CompressError, ProfileError, UsageError
from compressor.profiling import fingerprint
from compressor.run.report.report import Report
from tests.compressor.check.files import network


def test_a_file_is_its_counts(tmp_path: Path) -> None:
    side = read_side(str(network(tmp_path / "one.onnx")))
    assert side.macs == 24 * 24 * 9 * (3 * 32 + 2 * 32 * 32)
    assert side.params == 9 * (3 * 32 + 2 * 32 * 32)
    assert (side.widths, side.nodes, side.accuracy) == ((32, 32, 32), 4, None)
    assert side.bytes == (tmp_path / "one.onnx").stat().st_size


def test_a_baseline_survives_its_file_and_moves_with_it(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    side = read_side(str(network(tmp_path / "models" / "one.onnx")))
    save_baseline(side, tmp_path / "baseline.json")
    assert json.loads((tmp_path / "baseline.json").read_text())["file"] == "models/one.onnx"
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("models", "baseline.json"):
        (tmp_path / name).rename(moved / name)
    again = read_side(str(moved / "baseline.json"))
    assert (again.macs, again.params, again.bytes, again.operators, again.widths, again.sha256) == (
        side.macs, side.params, side.bytes, side.operators, side.widths, side.sha256,
    )  # fmt: skip
    assert again.file is not None
    assert again.file.read_bytes() == (moved / "models" / "one.onnx").read_bytes()


def test_a_baseline_whose_file_is_gone_or_another_still_has_its_counts(tmp_path: Path) -> None:
    side = read_side(str(network(tmp_path / "one.onnx")))
    save_baseline(side, tmp_path / "baseline.json")
    network(tmp_path / "one.onnx", value=0.02)
    changed = read_side(str(tmp_path / "baseline.json"))
    assert (changed.file, changed.macs) == (None, side.macs)
    assert "another hash" in str(changed.missing)
    (tmp_path / "one.onnx").unlink()
    assert "is not there" in str(read_side(str(tmp_path / "baseline.json")).missing)
    with pytest.raises(UsageError, match="as a baseline: its artifact"):
        save_baseline(changed, tmp_path / "other.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "it is not JSON"),
        ("[]", "is no baseline"),
        ('{"kind": "report"}', "is no baseline"),
        ('{"kind": "compress baseline", "schema": 2}', "has schema 2, this version reads 1"),
        ('{"kind": "compress baseline", "schema": 1}', "is damaged"),
        (
            '{"kind": "compress baseline", "schema": 1, "file": "a", "sha256": "", "macs": "many"}',
            "is damaged",
        ),
    ],
)
def test_a_file_that_is_no_baseline_says_so(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "baseline.json").write_text(text)
    with pytest.raises(CompressError, match=message):
        read_side(str(tmp_path / "baseline.json"))


def test_what_is_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        read_side(str(tmp_path / "nothing.onnx"))
    with pytest.raises(UsageError, match="no baseline at"):
        read_side(str(tmp_path / "nothing.json"))
    with pytest.raises(UsageError, match="no report in"):
        read_side(str(tmp_path))
    (tmp_path / "file.onnx").write_text("no onnx")
    with pytest.raises(ProfileError, match="it is no ONNX file"):
        read_side(str(tmp_path / "file.onnx"))


def test_a_run_folder_is_its_students_file_with_the_accuracy_of_its_report(tmp_path: Path) -> None:
    network(tmp_path / "student.onnx", width=36)
    network(tmp_path / "before.onnx", width=40)
    empty: dict[str, Any] = {each.name: {} for each in fields(Report)}
    report = Report(**{**empty, "accuracy": {"onnx": 0.75}, "folder": str(tmp_path), "schema": 1})
    (tmp_path / "report.json").write_text(json.dumps(report.to_dict()))
    side = read_side(str(tmp_path))
    assert (side.widths, side.accuracy, side.name) == ((36, 36, 36), 0.75, str(tmp_path))
    findings = compare_exactly(read_side(str(tmp_path / "before.onnx")), side, Limits())
    off = next(finding for finding in findings if "granule" in finding.name)
    assert (off.passed, off.baseline, off.candidate, off.detail) == (False, 0, 3, "widths 36")


@pytest.mark.parametrize("name", ["net.engine", "net.plan", "net.ENGINE"])
def test_an_engine_is_told_from_a_broken_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        UsageError, match="is a TensorRT engine, which this version can neither count nor run"
    ):
        read_side(str(tmp_path / name))


def test_a_baseline_takes_the_place_of_a_baseline_only(tmp_path: Path) -> None:
    side = read_side(str(network(tmp_path / "one.onnx")))
    save_baseline(side, tmp_path / "baseline.json")
    refuse_to_overwrite(tmp_path / "baseline.json")
    refuse_to_overwrite(tmp_path / "new" / "baseline.json")
    (tmp_path / "other.json").write_text("[]")
    for name in ("one.onnx", "other.json", ".", "one.onnx/baseline.json"):
        with pytest.raises(UsageError, match=r"is no baseline|is no folder"):
            refuse_to_overwrite(tmp_path / name)


def test_a_baseline_knows_the_machine_that_wrote_it(tmp_path: Path) -> None:
    side = read_side(str(network(tmp_path / "one.onnx")))
    save_baseline(side, tmp_path / "baseline.json")
    again = read_side(str(tmp_path / "baseline.json"))
    assert side.device is None
    assert again.device is not None
    assert again.device["cpu"] == fingerprint()["cpu"]
    value = json.loads((tmp_path / "baseline.json").read_text())
    del value["device"]
    (tmp_path / "baseline.json").write_text(json.dumps(value))
    with pytest.raises(CompressError, match="is damaged: 'device'"):
        read_side(str(tmp_path / "baseline.json"))
