"""Table rows and sentences of a report, as text for the screen and for Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.artifacts.runtimes import RUNTIMES
from compressor.recipe.budget import cost_of, title_of
from compressor.run.report.report import Report, compared

Row = tuple[str, str, str, str]

TRAINING_HEAD = ("training", "taught by", "MACs removed", "epochs", "top-1", "seconds")

PROOF_HEAD = (
    "file", "runs in", "verdict", "off by", "top-1", "ms", "speed", "allowed", "precision", "mean", "cosine",
    "top-1 equal",
)  # fmt: skip
PROOF_HEAD_OF_SCREEN = PROOF_HEAD[:7]
"""The columns that fit on a screen of 80 characters."""

UNITS = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def cost_rows(report: Report) -> list[Row]:
    """The costs of both networks: (cost, teacher, student, removed)."""
    rows: list[Row] = []
    for name, title in (
        ("macs", "MACs"),
        ("params", "parameters"),
        ("channels", "channels"),
        ("activation_bytes", "activations, bytes"),
        ("bytes", "ONNX file, bytes"),
    ):
        if name not in report.cost:  # a report of an older version, which did not count it
            continue
        cost = report.cost[name]
        rows.append((title, short(cost["teacher"]), short(cost["student"]), percent(cost["removed"])))
    for row in report.latency:
        before, after = row["teacher"], row["student"]
        gone = percent(1 - after["median_ms"] / before["median_ms"])
        rows.append(
            (
                latency_title(row, report.latency),
                spread(before),
                spread(after),
                f"{gone} ({row['speedup']['median']:.2f}×)",
            )
        )
    return rows


def accuracy_rows(report: Report) -> list[tuple[str, str, str]]:
    """The accuracies: (network, top-1, difference to the teacher in points)."""
    right = report.accuracy
    rows = [("teacher", percent(right["teacher"], 2), "")]
    for name, title in (
        ("cut", "student, merely cut"),
        ("repaired", "student, repaired"),
        ("student", "student, distilled"),
        ("onnx", "student, from the ONNX file"),
    ):
        if name not in right:  # a user's own student is not cut
            continue
        if name == "student" and not any(row["epochs"] for row in report.trainings):
            continue  # nothing was trained: the student is the repaired or the cut network
        points = (right[name] - right["teacher"]) * 100
        rows.append((title, percent(right[name], 2), f"{points:+.2f} points"))
    return rows


def repair_sentence(row: Mapping[str, Any]) -> str:
    """A sentence about a repair: the error of the outputs before and after it."""
    error = row["output_error"]
    became = "" if row["helped"] else "; that is no better, so the repair was not used"
    return (
        f"Repair of {row['network']}: {len(row['layers'])} layers fitted on {row['images']} images without labels; "
        f"squared error of the outputs, relative to the teacher's: {error['before']:.3g} as cut, "
        f"{error['after']:.3g} repaired{became}."
    )


def repair_rows(row: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Every fitted layer with its error before and after, as a share of its output's variance."""
    return [(each["name"], percent(each["before"]), percent(each["after"])) for each in row["layers"]]


def training_rows(report: Report) -> list[tuple[str, ...]]:
    """The training of each network, under `TRAINING_HEAD`."""
    return [
        (
            row["network"],
            row["teacher"],
            percent(row["macs_removed"]),
            str(row["epochs"]),
            percent(row["accuracy"], 2),
            f"{row['seconds']:.1f}",
        )
        for row in report.trainings
    ]


def proof_rows(proofs: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The reference, then every file in every runtime that ran it, under `PROOF_HEAD`."""
    return [
        (
            row["file"],
            row["runtime"],
            _word(row),
            _figure(row, "max_abs_error", ".2g"),
            _figure(row, "accuracy", ".2%"),
            _figure(_timing(row), "median_ms", ".3f"),
            _figure(_timing(row), "speedup", ".2f", "×"),
            _figure(row, "tolerance", ".2g"),
            row["precision"],
            _figure(row, "mean_abs_error", ".2g"),
            _figure(row, "cosine", ".5f"),
            _figure(row, "agreement", ".1%"),
        )
        for row in proofs
    ]


def _word(proof: Mapping[str, Any]) -> str:
    if proof["format"] == "network":
        return ""
    return {True: "passed", False: "FAILED", None: "not run"}[proof["passed"]]


def _timing(proof: Mapping[str, Any]) -> Mapping[str, Any]:
    return proof.get("timing") or {}


def how_timed(proofs: Sequence[Mapping[str, Any]]) -> str | None:
    """A sentence about the times of files; None if no file was timed."""
    timings = [timing for proof in proofs if (timing := _timing(proof))]
    if not timings:
        return None
    first = timings[0]
    against = next((each["against"] for each in timings if "against" in each), None)
    beside = f"; speed is against {against} in the same runtime" if against else ""
    return (
        f"Times of files: median of {first['rounds']} interleaved rounds, batch {first['batch']}, "
        f"threads {first['threads']}{beside}."
    )


def _figure(row: Mapping[str, Any], key: str, form: str, unit: str = "") -> str:
    """A figure, or a dash if there is none."""
    value = row.get(key)
    return "–" if value is None else format(value, form).replace("%", " %") + unit


def about_files(check: Mapping[str, Any], proofs: Sequence[Mapping[str, Any]]) -> bool:
    """True if a row of the table of proofs has this check."""
    compared = (check.get("file"), check.get("runtime"))
    return any(compared == (row["file"], row["runtime"]) for row in proofs)


def asked_and_reached(report: Report) -> str:
    """One sentence about the promise."""
    of = cost_of(report.request["of"])
    limits = report.request.get("limits", {})
    parts = []
    if report.request["remove"]:
        parts.append(
            f"Asked to remove {percent(report.request['remove'])} of the {_title(report, of)}, "
            f"removed {percent(_reached(report, of)['removed'], 2)}"
        )
    for name, limit in limits.items():
        cost = name.removeprefix("max_").removesuffix("_ms")
        figure = _reached(report, cost)["student"]
        unit = " ms" if cost == "latency" else ""
        amount, most = (f"{each:.3f}" if unit else f"{each:,.0f}" for each in (figure, limit))
        parts.append(f"asked for at most {most}{unit} {_title(report, cost)}, reached {amount}{unit}")
    if "student" in report.request:
        gone = percent(report.cost["macs"]["removed"])
        parts.append(
            f"the student is your own network `{report.request['student']}`; it has {gone} fewer MACs than the teacher"
        )
    sentence = "; ".join(parts)
    return sentence[0].upper() + sentence[1:]


KEYS = {"latency": "latency_ms"}
"""Costs whose name in a report differs from their name in a budget."""


def _title(report: Report, cost: str) -> str:
    return title_of(cost, report.request["of"])


def _reached(report: Report, cost: str) -> Mapping[str, Any]:
    """A cost as the budget meant it. The time of another file than the plain one was measured to choose widths."""
    if cost != "latency" or report.request["of"] != "latency-int8" or report.fit is None:
        return report.cost[KEYS.get(cost, cost)]
    chosen = report.fit["rounds"][report.fit["chosen"]]
    return compared(report.fit["teacher"]["latency"], chosen["measured"]["latency"])


def how_fitted(report: Report) -> str | None:
    """A sentence about widths chosen by latency or bytes: predicted and measured costs, and the control by MACs."""
    if report.fit is None:
        return None
    fit, chosen = report.fit, report.fit["rounds"][report.fit["chosen"]]
    parts = [f"Widths by measuring ({fit['about']})"]
    for name, figure in chosen["measured"].items():
        teacher = fit["teacher"][name]
        amount = f"{figure:.3f} ms" if name == "latency" else f"{figure:,.0f}"
        parts.append(
            f"{_title(report, name)} {amount}, {percent(figure / teacher)} of the teacher's, "
            f"{percent(chosen['predicted'][name] / teacher)} predicted, "
            f"{percent(fit['allowed'][name] / teacher)} allowed"
        )
    sentence = "; ".join(parts) + f"; {percent(chosen['scores_kept'])} of the scores kept"
    if fit["gap"] is not None:
        sentence += f", at most {fit['gap']:.2%} more was possible"
    control = fit["macs_control"]
    if control is not None:
        sentence += (
            f". As many MACs removed by their share alone: {_title(report, 'latency')} "
            f"{percent(control['measured']['latency'] / fit['teacher']['latency'])}, "
            f"{percent(control['scores_kept'])} of the scores"
        )
    return sentence + "."


def how_measured(report: Report) -> str:
    """A sentence about the latencies."""
    return f"Latency: {measured(report.latency, report.environment)}."


def measured(rows: Sequence[Mapping[str, Any]], device: Mapping[str, Any]) -> str:
    """The conditions of the latency measurements, and disturbances during them."""
    timings = [row[who] for row in rows for who in ("teacher", "student") if who in row]
    batches = dict.fromkeys(str(row["batch"]) for row in rows)
    said = [
        f"median (10th to 90th percentile) of {len(timings[0]['samples_ms'])} interleaved rounds",
        f"batch {' and '.join(batches)}, threads {rows[0]['threads']}, {device['cpu']}",
    ]
    return "; ".join([", ".join(said), *_disturbances(rows, timings)])


def _disturbances(rows: Sequence[Mapping[str, Any]], timings: Sequence[Mapping[str, Any]]) -> list[str]:
    found = ["other programs used the processor meanwhile"] if any(t["contended"] for t in timings) else []
    for row in rows:
        found += [each["text"] for each in row.get("conditions", {}).get("reasons", [])]
    if any(timing.get("launch_bound") for timing in timings):
        found.append("launch-bound: the GPU waited for the host, so a smaller network is not faster there")
    return list(dict.fromkeys(found))


def student_form(report: Report) -> str:
    """A sentence about the form of the student."""
    return f"The student is {report.model.get('form', 'of its teacher’s own class')}."


def short(number: float) -> str:
    """A count with three digits and a unit: 12,288,000 is 12.3 M."""
    for unit, size in UNITS:
        if number >= size * 0.9995:
            return f"{number / size:.3g} {unit}" if number < size * 999.5 else f"{number / size:,.0f} {unit}"
    return f"{number:,.0f}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage, or a dash if the teacher's cost is 0."""
    return "–" if share is None else f"{share * 100:.{digits}f} %"


def error(check: Mapping[str, Any]) -> str:
    """The error of a check; ``unbounded`` if the two sides could not be compared."""
    found = check["max_abs_error"]
    return "unbounded" if found is None else f"{found:.2g}"


def latency_title(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """The runtime of a latency row, with its batch where there are several."""
    several = len({each["batch"] for each in rows}) > 1
    return f"{RUNTIMES[row['runtime']].title}{', batch {}'.format(row['batch']) if several else ''}, ms"


def spread(timing: Mapping[str, Any]) -> str:
    """Median, and the range from the 10th to the 90th percentile."""
    return f"{timing['median_ms']:.3f} ({timing['p10_ms']:.3f}–{timing['p90_ms']:.3f})"
