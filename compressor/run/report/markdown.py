"""A report as Markdown: the figures of ``report.json`` to read in a browser or a review."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from compressor.run.report.report import Report
from compressor.run.report.report_rows import (
    PROOF_HEAD,
    TRAINING_HEAD,
    accuracy_rows,
    asked_and_reached,
    cost_rows,
    error,
    how_fitted,
    how_measured,
    how_timed,
    proof_rows,
    repair_rows,
    repair_sentence,
    short,
    student_form,
    training_rows,
)


def to_markdown(report: Report) -> str:
    """The content of ``report.md``."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"# {report.model['name']} on {report.data['name']}: {report.verdict}"
    yield ""
    if report.shortfall:
        yield f"What would help: {report.remedies}."
        yield ""
    yield f"{asked_and_reached(report)}. Shares are of the teacher's cost."
    yield from _table(("accuracy", report.accuracy["metric"], "against the teacher"), accuracy_rows(report))
    yield from _table(("cost", "teacher", "student", "removed"), cost_rows(report))
    yield ""
    yield " ".join(filter(None, (how_fitted(report), how_measured(report))))
    yield ""
    yield student_form(report)
    yield from _checks(report)
    yield from _table(PROOF_HEAD, proof_rows(report.proofs))
    if told := how_timed(report.proofs):
        yield ""
        yield told
    yield from _table(TRAINING_HEAD, training_rows(report))
    yield from _repairs(report)
    yield from _widths(report)
    yield from _files(report)
    yield from _table(("step", "seconds"), [(row["name"], f"{row['seconds']:.2f}") for row in report.steps])
    if report.warnings:
        yield ""
        yield "## Warnings"
        yield ""
        yield from (f"- {warning}" for warning in report.warnings)


def _checks(report: Report) -> Iterator[str]:
    yield from _table(
        ("check", "result", "largest error", "allowed"),
        [
            (
                check["name"],
                "passed" if check["passed"] else "FAILED",
                error(check),
                f"{check['tolerance']:.3g}",
            )
            for check in report.checks
        ],
    )


def _widths(report: Report) -> Iterator[str]:
    """Remaining widths of every group and layer, and the channels left whole."""
    yield from _table(
        ("group", "units", "kept"),
        [(name, str(before), str(after)) for name, (before, after) in report.widths.items()],
    )
    yield from _table(
        ("layer", "kind", "MACs", "left", "parameters", "left"),
        [
            (row["name"], row["kind"], *(short(n) for n in row["macs"]), *(short(n) for n in row["params"]))
            for row in report.layers
        ],
    )
    if report.not_cut:
        yield from _table(("left whole", "why"), [(row["name"], row["reason"]) for row in report.not_cut])


def _files(report: Report) -> Iterator[str]:
    """Tables of the files, and of the layers of engines that ran here."""
    yield from _table(
        ("file", "format", "precision", "opset", "bytes", "sha256"),
        [
            (
                row["path"],
                row["format"],
                row["precision"],
                str(row["opset"]),
                f"{row['bytes']:,}",
                row["sha256"][:16],
            )
            for row in report.artifacts
        ],
    )
    for name, layers in report.engines.items():
        yield from _table(
            (f"layer of {name}", "nodes of the ONNX file", "writes", "kernel", "ms"),
            [
                (
                    row["kind"] or row["name"],
                    ", ".join(row["nodes"]),
                    ", ".join(row["formats"]),
                    row["kernel"],
                    "–" if row["median_ms"] is None else f"{row['median_ms']:.4f}",
                )
                for row in layers
            ],
        )


def _repairs(report: Report) -> Iterator[str]:
    """The error of every fitted layer, and the layers that were not fitted."""
    for row in report.repairs:
        yield ""
        yield repair_sentence(row)
        yield from _table(("layer", "error before the repair", "after"), repair_rows(row))
        if row["left"]:
            yield from _table(("not fitted", "why"), [(each["name"], each["reason"]) for each in row["left"]])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield ""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
