"""Both sides of a check: read, kept as a baseline, and refused where they are not what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compressor.errors import CompressError, UsageError
from compressor.guard.sides import read_side, save_baseline
from profiles import ProfileError
from tests.compressor.guard.files import network


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
    with pytest.raises(UsageError, match="has no artifact at hand"):
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
