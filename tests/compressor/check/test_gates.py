"""Reasons for no verdict on time, however clear the numbers are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from compressor.commands.check import slowdown as measured
from compressor.commands.check.command import run_check
from compressor.commands.check.same_machine import differs_from
from compressor.commands.check.sides import Side
from compressor.commands.check.slowdown import LostProcessError, measure_slowdown
from compressor.errors import CompressError
from compressor.profiling import Reason, Rule, fingerprint
from tests.compressor.check.files import network
from tests.compressor.check.test_check import DEFAULTS

RULE = Rule(looks=(3, 6), pairs=5)
SIDE = Side("a", Path("a.onnx"), "", 1, 1, 1, {}, ())
HERE = {
    "cpu": "A",
    "architecture": "x86_64",
    "instruction_sets": ["avx2"],
    "packages": {"onnxruntime": "1.31.1"},
}
HOT = Reason("throttled", "the processor slowed itself down to cool (events: 2)").to_dict()


def answer(
    *, factor: float = 1.0, cores: float = 1.0, reasons: Sequence[dict[str, str]] = ()
) -> dict[str, Any]:
    """Answer of a process: the candidate takes ``factor`` times as long, on ``cores`` cores."""
    sides = {"baseline": 2.0, "candidate": 2.0 * factor}
    told: dict[str, Any] = {
        side: {"samples_ms": [ms] * 5, "cpu_ms": [ms * cores] * 5} for side, ms in sides.items()
    }
    return told | {"conditions": {"reasons": list(reasons)}}


def processes(
    monkeypatch: pytest.MonkeyPatch, answers: Sequence[dict[str, Any] | Exception]
) -> Iterator[object]:
    """Replace the answers of measuring processes by these, one after the other."""
    left = iter(answers)

    def launched(order: dict[str, Any]) -> dict[str, Any]:
        said = next(left)
        if isinstance(said, Exception):
            raise said
        return said

    monkeypatch.setattr(measured, "_launched", launched)
    return left


def codes(found: measured.Measured) -> list[str]:
    return [reason.code for reason in found.regression.reasons]


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_a_processor_that_slowed_itself_down_decides_nothing(
    monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    said = [answer(factor=factor), answer(factor=factor, reasons=[HOT]), *[answer(factor=factor)] * 4]
    left = processes(monkeypatch, said)
    found = measure_slowdown(SIDE, SIDE, RULE)
    assert (found.regression.outcome, codes(found)) == ("INCONCLUSIVE", ["throttled"])
    assert found.regression.reasons[0].text.startswith("in 1 of 3 processes the processor")
    assert len(list(left)) == 3  # no more are started: they could not help


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_wall_time_of_a_busy_machine_decides_nothing(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    processes(monkeypatch, [answer(factor=factor, cores=0.5)] * 6)
    found = measure_slowdown(SIDE, SIDE, RULE, threads=2)
    assert (found.regression.outcome, codes(found)) == ("INCONCLUSIVE", ["host-contended"])
    assert found.regression.launches == 6  # the disturbance may end: all looks are taken


def test_cpu_time_of_a_busy_machine_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    processes(monkeypatch, [answer(factor=1.5, cores=0.5)] * 3)
    assert measure_slowdown(SIDE, SIDE, RULE).regression.outcome == "FAIL"


def test_processes_that_die_on_the_way_leave_it_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    processes(monkeypatch, [answer(factor=1.5)] * 2 + [LostProcessError("a measuring process died: killed")])
    found = measure_slowdown(SIDE, SIDE, RULE)
    assert (found.regression.outcome, set(codes(found))) == ("INCONCLUSIVE", {"too-few-processes"})
    assert "after 2 of 3 processes a measuring process died: killed" in found.regression.reasons[0].text


def test_a_first_process_that_dies_is_an_error_since_all_will(monkeypatch: pytest.MonkeyPatch) -> None:
    processes(monkeypatch, [LostProcessError("a measuring process died: killed")])
    with pytest.raises(CompressError, match="killed"):
        measure_slowdown(SIDE, SIDE, RULE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cpu": "B"}, "CPU A there, B here"),
        ({"cpu": None}, "CPU A there, unknown here"),
        ({"architecture": "aarch64"}, "architecture x86_64 there, aarch64 here"),
        ({"instruction_sets": ["avx2", "avx512"]}, "instruction sets avx2 there, avx2+avx512 here"),
        ({"packages": {"onnxruntime": "1.32.0"}}, "onnxruntime 1.31.1 there, 1.32.0 here"),
    ],
)
def test_another_machine_is_told_by_what_differs(change: dict[str, object], words: str) -> None:
    reason = differs_from("baseline.json", HERE, HERE | change)
    assert reason is not None
    assert (reason.code, words in reason.text) == ("fingerprint-differs", True)


def test_what_does_not_choose_the_code_may_differ() -> None:
    there = HERE | {"gpu": {"name": "one"}, "os": "Linux 5", "python": "3.11.0", "usable_cores": 2}
    assert differs_from("baseline.json", there, HERE | {"gpu": None, "os": "Linux 6"}) is None
    assert differs_from("baseline.json", there, HERE | {"gpu": {"name": "other"}}) is not None
    assert differs_from("baseline.json", fingerprint(), json.loads(json.dumps(fingerprint()))) is None


def test_a_baseline_of_another_machine_decides_no_time_unless_any_device_will_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, baseline = str(network(tmp_path / "one.onnx")), tmp_path / "baseline.json"
    options = {**DEFAULTS, "processes": 3, "max_slowdown": "900%", "as_json": True}
    run_check(model, None, {**DEFAULTS, "save": baseline})
    value = json.loads(baseline.read_text())
    value["device"]["cpu"] = "Another Processor"
    baseline.write_text(json.dumps(value))
    capsys.readouterr()

    assert run_check(str(baseline), model, options) == 3
    told = json.loads(capsys.readouterr().out)
    assert [reason["code"] for reason in told["latency"]["reasons"]] == ["fingerprint-differs"]
    assert "Another Processor" in told["latency"]["reasons"][0]["text"]
    assert len(told["launches"]) == 3  # both sides are measured anyway, for the report

    assert run_check(str(baseline), model, {**options, "any_device": True}) == 0
    assert json.loads(capsys.readouterr().out)["latency"]["outcome"] == "PASS"
    assert run_check(str(baseline), model, {**options, "exact_only": True}) == 0
