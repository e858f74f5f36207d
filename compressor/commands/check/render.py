"""Render a check as text, as Markdown for a job's summary, as JUnit XML, and as annotations."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from compressor.base.files import write_atomic
from compressor.commands.check.compare import Checked
from compressor.commands.check.exact import Finding
from compressor.profiling import Reason, Regression

SIGNS = {True: "ok", False: "FAILED"}
TOLD = "-"
"""Sign of a finding that has no limit."""


def to_text(checked: Checked) -> str:
    """Render a check for the terminal."""
    lines = [f"{checked.outcome}: {checked.candidate.name} against {checked.baseline.name}"]
    lines += [f"  {sign(finding):<7} {finding.name}: {compared(finding)}" for finding in checked.findings]
    lines += [f"  {'?':<7} {said(reason)}" for reason in checked.reasons]
    lines += [f"  {TOLD:<7} {said(note)}" for note in checked.notes]
    if checked.measured is not None:
        regression = checked.measured.regression
        mark = {"PASS": "ok", "FAIL": "FAILED", "INCONCLUSIVE": "?"}[regression.outcome]
        lines += [f"  {mark:<7} latency: {part}" for part in sentences(regression)]
    return "\n".join(lines)


def to_markdown(checked: Checked) -> str:
    """Render a check as a Markdown table."""
    lines = [
        f"### compress check: {checked.outcome}",
        "",
        f"`{checked.candidate.name}` against `{checked.baseline.name}`",
        "",
        "| | | baseline | candidate | at most |",
        "|---|---|---|---|---|",
    ]
    for finding in checked.findings:
        limit = "" if finding.limit is None else number(finding.limit)
        cells = (number(finding.baseline), number(finding.candidate), limit)
        lines.append(f"| {sign(finding)} | {finding.name} | {' | '.join(cells)} |")
    lines += [f"\n{said(reason)}" for reason in (*checked.reasons, *checked.notes)]
    if checked.measured is not None:
        regression = checked.measured.regression
        lines += ["", f"**Latency: {regression.outcome}.** " + "; ".join(sentences(regression)) + "."]
    return "\n".join(lines) + "\n"


def sentences(regression: Regression) -> Iterator[str]:
    """Yield the ratio with its interval, the slowdown that would have been detected, and the reasons of no verdict."""
    if regression.launches >= 3 and regression.high != float("inf"):
        yield (
            f"{change(regression.ratio)} ({change(regression.low)} to {change(regression.high)}), "
            f"{regression.tolerance:.1%} allowed, by {regression.clock} time in {regression.launches} processes"
        )
        yield f"a slowdown of {regression.detectable:.1%} would have been caught"
    yield from map(said, regression.reasons)


def said(reason: Reason) -> str:
    """The sentence of a reason and its code."""
    return f"{reason.text} [{reason.code}]"


def sign(finding: Finding) -> str:
    """Sign at the beginning of a finding's line."""
    return TOLD if finding.limit is None else SIGNS[finding.passed]


def change(ratio: float) -> str:
    """Render a ratio of times: 1.031 is ``3.10% slower``."""
    if abs(ratio - 1) < 5e-5:
        return "unchanged"
    return f"{abs(ratio - 1):.2%} {'slower' if ratio > 1 else 'faster'}"


def compared(finding: Finding) -> str:
    """Render both numbers of a finding, the limit if it is exceeded, and the detail."""
    text = f"{number(finding.baseline)} → {number(finding.candidate)}"
    if not finding.passed and finding.limit is not None:
        text += f", at most {number(finding.limit)} allowed"
    return f"{text} ({finding.detail})" if finding.detail else text


def number(value: float) -> str:
    """Render with commas; below 1000 with two decimals, except whole numbers; below 1 with two significant digits."""
    if 0 < abs(value) < 1:
        return f"{value:.2g}"
    return f"{value:,.0f}" if value == int(value) or value >= 1000 else f"{value:,.2f}"


def to_junit(checked: Checked) -> bytes:
    """Render one test case for every finding and one for the time; undecided comparisons are skipped tests."""
    cases: list[tuple[str, str, str]] = [
        (finding.name, "" if finding.passed else "failure", compared(finding)) for finding in checked.findings
    ]
    if checked.measured is not None:
        regression = checked.measured.regression
        kind = {"PASS": "", "FAIL": "failure", "INCONCLUSIVE": "skipped"}[regression.outcome]
        cases.append(("latency", kind, "; ".join(sentences(regression))))
    cases += [("outputs", "skipped", said(reason)) for reason in (*checked.reasons, *checked.notes)]
    suite = ElementTree.Element(
        "testsuite",
        name="compress check",
        tests=str(len(cases)),
        failures=str(sum(kind == "failure" for _, kind, _ in cases)),
        skipped=str(sum(kind == "skipped" for _, kind, _ in cases)),
    )
    for name, kind, message in cases:
        case = ElementTree.SubElement(suite, "testcase", classname="compress.check", name=name)
        if kind:
            ElementTree.SubElement(case, kind, message=message)
    return bytes(ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))


def notes_of(checked: Checked) -> Iterator[str]:
    """Yield annotations that GitHub shows beside a job."""
    for finding in checked.findings:
        if not finding.passed:
            yield f"::error title=compress check::{finding.name}: {compared(finding)}"
    for reason in checked.reasons:
        yield f"::warning title=compress check::{said(reason)}"
    if checked.measured is not None and checked.measured.regression.outcome != "PASS":
        level = "error" if checked.measured.regression.outcome == "FAIL" else "warning"
        yield f"::{level} title=compress check::latency: {'; '.join(sentences(checked.measured.regression))}"


def tell_the_job(checked: Checked) -> list[str]:
    """In a GitHub job, append the table to the job's summary, and return the annotations to print."""
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(to_markdown(checked))
    return list(notes_of(checked)) if os.environ.get("GITHUB_ACTIONS") else []


def write_junit(checked: Checked, path: Path) -> None:
    """Write the check as a JUnit file."""
    write_atomic(path, to_junit(checked))
