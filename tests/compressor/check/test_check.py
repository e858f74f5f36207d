"""A whole check in fresh processes: its text, its JSON and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from compressor.cli import cli
from compressor.commands.check.command import looks_up_to, run_check, share
from compressor.commands.check.compare import Checked, check_sides
from compressor.commands.check.exact import Limits, compare_exactly
from compressor.commands.check.render import to_junit, to_markdown, to_text
from compressor.commands.check.sides import Side, read_side
from compressor.commands.check.slowdown import Measured, measure_slowdown
from compressor.errors import CompressError, UsageError
from compressor.profiling import Rule, decide
from tests.compressor.check.files import network

FEW = Rule(looks=(3,), pairs=15)
DEFAULTS = cli.commands["check"].make_context("check", ["-"]).params


def run(capsys: pytest.CaptureFixture[str], *sides: Path, **options: object) -> tuple[int, str]:
    code = run_check(str(sides[0]), str(sides[1]) if len(sides) > 1 else None, {**DEFAULTS, **options})
    return code, capsys.readouterr().out


def test_a_file_twice_as_slow_fails_and_the_same_file_does_not(tmp_path: Path) -> None:
    fast = read_side(str(network(tmp_path / "fast.onnx")))
    slow = read_side(str(network(tmp_path / "slow.onnx", extra=3)))
    assert measure_slowdown(fast, slow, FEW).regression.outcome == "FAIL"
    same = measure_slowdown(fast, fast, FEW)
    assert same.regression.outcome != "FAIL"
    assert same.regression.clock == "cpu"
    assert [len(each["baseline"]["samples_ms"]) for each in same.launches] == [15] * 3
    assert all(
        each["conditions"]["before"].keys() == {"load", "mhz", "throttle_counts", "gpu"}
        for each in same.launches
    )


def test_a_launch_loads_nothing_that_changes_what_it_measures() -> None:
    program = "import sys, compressor.commands.check.measuring_process; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {"torch", "onnx", "torchvision", "rich"}.isdisjoint(done.stdout.split())


def test_a_users_own_module_is_not_taken_for_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    side = read_side(str(network(tmp_path / "one.onnx")))
    (tmp_path / "export.py").write_text('raise SystemExit("the wrong export")\n')
    monkeypatch.chdir(tmp_path)
    assert measure_slowdown(side, side, FEW).regression.launches == 3


def test_a_run_in_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, larger = network(tmp_path / "one.onnx"), network(tmp_path / "larger.onnx", layers=4)
    code, text = run(capsys, one, one, exact_only=True)
    assert (code, text.splitlines()[0]) == (0, f"PASS: {one} against {one}")
    code, text = run(capsys, one, larger, exact_only=True, junit=tmp_path / "check.xml")
    assert code == 4
    assert "FAILED  MACs: 11,114,496 → 16,422,912, at most 11,225,641 allowed" in text
    suite = ElementTree.parse(tmp_path / "check.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("7", "4", "0")
    code, text = run(capsys, one, larger, exact_only=True, as_json=True)
    assert (code, json.loads(text)["outcome"]) == (4, "FAIL")


def test_a_baseline_is_written_and_compared_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = network(tmp_path / "one.onnx")
    assert run(capsys, one, save=tmp_path / "baseline.json")[0] == 0
    assert run(capsys, tmp_path / "baseline.json", one, exact_only=True)[0] == 0
    one.rename(tmp_path / "moved.onnx")
    code, text = run(capsys, tmp_path / "baseline.json", tmp_path / "moved.onnx")
    assert code == 3
    assert "is not there" in text
    assert run(capsys, tmp_path / "baseline.json", tmp_path / "moved.onnx", strict=True)[0] == 4
    with pytest.raises(UsageError, match="nothing to compare with"):
        run(capsys, tmp_path / "moved.onnx")


def test_on_github_the_job_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    one, larger = network(tmp_path / "one.onnx"), network(tmp_path / "larger.onnx", layers=4)
    run_check(str(one), str(larger), {**DEFAULTS, "exact_only": True})
    assert "::error title=compress check::MACs: 11,114,496" in capsys.readouterr().err
    assert (tmp_path / "summary.md").read_text().startswith("### compress check: FAIL")


def checked(ratios: list[float], side: Side) -> Checked:
    regression = decide(ratios, Rule(), "cpu")
    return Checked(side, side, tuple(compare_exactly(side, side, Limits())), Measured(regression, (), {}))


@pytest.mark.parametrize(
    ("shift", "outcome", "code", "strict", "kind"),
    [(0.0, "PASS", 0, 0, None), (0.1, "FAIL", 4, 4, "failure"), (0.0247, "INCONCLUSIVE", 3, 4, "skipped")],
)
def test_every_outcome_has_its_code_and_its_words(
    shift: float, outcome: str, code: int, strict: int, kind: str | None, tmp_path: Path
) -> None:
    side = read_side(str(network(tmp_path / "one.onnx")))
    found = checked([shift + noise for noise in (0.001, -0.001, 0.0, 0.002, -0.002, 0.0)], side)
    assert (found.outcome, found.exit_code(strict=False), found.exit_code(strict=True)) == (
        outcome,
        code,
        strict,
    )
    assert to_text(found).startswith(f"{outcome}: ")
    assert f"**Latency: {outcome}.**" in to_markdown(found)
    cases = {case.get("name"): case for case in ElementTree.fromstring(to_junit(found))}
    assert [child.tag for child in cases["latency"]] == ([kind] if kind else [])
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["latency"]["outcome"] == outcome


def test_sides_that_cannot_be_compared_are_one_clear_line(tmp_path: Path) -> None:
    one = read_side(str(network(tmp_path / "one.onnx")))
    broken = read_side(str(network(tmp_path / "nan.onnx", value=float("nan"))))
    with pytest.raises(CompressError, match=r"output `out` of .* is not finite"):
        measure_slowdown(one, broken, FEW)
    gone = replace(one, file=tmp_path / "gone.onnx")
    with pytest.raises(CompressError, match="no such file"):
        measure_slowdown(one, gone, FEW)
    for name in ("batch", "threads"):
        with pytest.raises(UsageError, match=f"--{name} is 0"):
            check_sides(one, one, Limits(), FEW, scope="exact", **{name: 0})  # type: ignore[arg-type]


def test_where_a_file_is_missing_the_time_is_undecided_and_the_rest_still_counts(tmp_path: Path) -> None:
    one = read_side(str(network(tmp_path / "one.onnx")))
    gone = replace(one, file=None, missing="it was deleted")
    found = check_sides(gone, one, Limits(), FEW)
    assert found.outcome == "INCONCLUSIVE"
    assert "it was deleted" in to_text(found)
    assert found.measured is not None
    assert {reason.code for reason in found.measured.regression.reasons} == {
        "artifact-missing",
        "too-few-processes",
    }
    assert (found.reasons, [note.code for note in found.notes]) == ((), ["artifact-missing"])
    assert check_sides(gone, one, Limits(), FEW, scope="exact").outcome == "PASS"
    asked = check_sides(gone, one, Limits(output_error=1e-3), FEW, scope="exact")
    assert (asked.outcome, [reason.code for reason in asked.reasons]) == (
        "INCONCLUSIVE",
        ["artifact-missing"],
    )
    assert check_sides(gone, replace(one, macs=2 * one.macs), Limits(), FEW).outcome == "FAIL"


def test_shares_are_written_as_per_cent() -> None:
    assert share("max-slowdown", "2.5%") == 0.025
    for wrong in ("2.5", "-1%", "much", "nan%", "inf%", ""):
        with pytest.raises(UsageError, match="--max-slowdown is") as caught:
            share("max-slowdown", wrong)
        assert caught.value.hint == "write per cent, as in 2.5%"


def test_fewer_processes_mean_fewer_looks() -> None:
    assert looks_up_to(None) == (6, 12, 18, 24)
    assert looks_up_to(8) == (6, 8)
    assert looks_up_to(3) == (3,)
    with pytest.raises(UsageError, match="at least 3"):
        looks_up_to(2)
