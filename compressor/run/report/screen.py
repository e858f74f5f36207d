"""A report on one screen: accuracy, costs, requested and reached share, checks, warnings, and the run folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from compressor.run.report.report import Report
from compressor.run.report.report_rows import (
    PROOF_HEAD_OF_SCREEN,
    TRAINING_HEAD,
    about_files,
    accuracy_rows,
    asked_and_reached,
    cost_rows,
    error,
    how_fitted,
    how_measured,
    how_timed,
    proof_rows,
    repair_sentence,
    student_form,
    training_rows,
)


def print_report(report: Report, console: Console) -> None:
    """Print the report; it is readable without colour."""
    console.print(_screen(report))


def _screen(report: Report) -> RenderableType:
    metric = report.accuracy["metric"]
    parts: list[RenderableType] = [
        Text(""),
        *_shortfall(report),
        _table(("accuracy", metric, "against the teacher"), accuracy_rows(report)),
        Text(""),
        _table(("cost", "teacher", "student", "removed"), cost_rows(report)),
        Text(""),
        *_trainings(report),
        Text(asked_and_reached(report), style="bold"),
        *([Text(fitted, style="dim")] if (fitted := how_fitted(report)) else []),
        Text(how_measured(report), style="dim"),
        Text(student_form(report), style="dim"),
        Text(""),
    ]
    parts += [proof_table(report.proofs), *_timed(report.proofs), Text("")]
    parts += [Text(repair_sentence(row), style="dim") for row in report.repairs]
    parts += _verdicts(report)
    parts += [Text(f"warning: {warning}", style="yellow") for warning in report.warnings]
    parts += [Text(""), Text(f"run folder: {report.folder}")]
    return Group(*parts)


def _shortfall(report: Report) -> list[Text]:
    """The first lines for a student that is far below its teacher, with advice."""
    if report.shortfall is None:
        return []
    sentence = f"{report.shortfall[0].upper()}{report.shortfall[1:]}.".replace("%", " %")
    return [Text(sentence, style="bold yellow"), Text(f"hint: {report.remedies}"), Text("")]


def proof_table(proofs: Sequence[Mapping[str, Any]]) -> Table:
    """Every file in every runtime, with its verdict."""
    head = PROOF_HEAD_OF_SCREEN
    return _table(head, [row[: len(head)] for row in proof_rows(proofs)])


def _timed(proofs: Sequence[Mapping[str, Any]]) -> list[Text]:
    told = how_timed(proofs)
    return [Text(told, style="dim")] if told else []


def print_files(proofs: Sequence[Any], checks: Sequence[Any], console: Console) -> None:
    """The output of `compress export`: the table of proofs, and the details of failed checks."""
    rows = [proof.to_dict() for proof in proofs]
    console.print(Group(proof_table(rows), *_timed(rows)))
    for check in checks:
        if not check.passed:
            console.print(Text(f"FAILED  {check.name}: {check.detail}"))


def _trainings(report: Report) -> list[RenderableType]:
    """The table of trainings, if networks other than the student ship."""
    if not any(row.get("ships") for row in report.trainings):
        return []
    return [_table(TRAINING_HEAD, training_rows(report)), Text("")]


def _verdicts(report: Report) -> list[Text]:
    """A line for every failure and every kind of check.

    Passed checks of networks between teacher and student are only counted; those of files are in their table.
    """
    checks = [
        check for check in report.checks if not check["passed"] or not about_files(check, report.proofs)
    ]
    shown = [check for check in checks if not check["passed"] or "network" not in check]
    lines = [_verdict(check) for check in shown]
    more = len(checks) - len(shown)
    if more:
        lines.append(Text(f"passed  {more} more, of the cuts between teacher and student", style="green"))
    return lines


def _verdict(check: Mapping[str, Any]) -> Text:
    word, style = ("passed", "green") if check["passed"] else ("FAILED", "bold red")
    text = Text(f"{word}  ", style=style)
    text.append(
        f"{check['name']}: largest error {error(check)}, allowed {check['tolerance']:.2g}",
        style="default",
    )
    return text


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(head):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
