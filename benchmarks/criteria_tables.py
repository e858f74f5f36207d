"""Tables of the benchmark of criteria: one a network and share, the mean over all, and the best ways."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from compressor.profiling import fingerprint
from compressor.pruning.scoring.combine import COMBINATIONS, NORMALISATIONS
from compressor.pruning.scoring.criteria import CRITERIA
from compressor.recipe.saliency import Scoring

REMOVE = (0.3, 0.5, 0.7)
Way = tuple[str, str]
Key = tuple[str, Way]
WAYS: tuple[Way, ...] = tuple(product(COMBINATIONS, NORMALISATIONS))
_DEFAULT = CRITERIA[Scoring().criterion]
PRESENT = (Scoring().criterion, (_DEFAULT.combine, _DEFAULT.normalise))
MARKS = ("<!-- written by benchmarks/criteria.py -->", "<!-- end of what was written -->")


class Row(NamedTuple):
    """One cut: what was asked, the share of MACs that went, both accuracies. ``seed``: None where none matters."""

    criterion: str
    seed: int | None
    combine: str
    normalise: str
    remove: float
    removed: float
    as_cut: float | None
    own_statistics: float

    @property
    def way(self) -> Way:
        return self.combine, self.normalise


def own(criterion: str) -> Way:
    """How the criterion is put together if nobody says otherwise."""
    return CRITERIA[criterion].combine, CRITERIA[criterion].normalise


def where_from(about: Mapping[str, Any]) -> str:
    device = fingerprint()
    parts = [
        f"Measured on {device['cpu']}, {device['usable_cores']} cores, one thread, Python {device['python']}, "
        f"torch {torch.__version__}, {time.strftime('%Y-%m-%d', time.gmtime())}. Accuracies in per cent.\n"
    ]
    for name, facts in about.items():
        parts.append(
            f"- **{name}**: {facts['teacher']:.1%} of the {facts['test_images']:,} test images used here; "
            f"{facts['scoring_images']:,} training images for scores, {facts['statistics_images']:,} for statistics; "
            f"{len(facts['rows']):,} of {facts['asked']:,} cuts measured, {len(facts['failures'])} refused, "
            f"{facts['asked'] - len(facts['rows']) - len(facts['failures']):,} not run."
        )
    return "\n".join(parts)


def grouped(rows: Sequence[Row], remove: float) -> dict[Key, list[Row]]:
    """The same cut with every seed that was measured."""
    found: dict[Key, list[Row]] = {}
    for row in rows:
        if row.remove == remove:
            found.setdefault((row.criterion, row.way), []).append(row)
    return found


def alike(group: Mapping[Key, list[Row]]) -> dict[Key, float]:
    """Accuracy with statistics anew, over those seeds that all ways of a criterion were measured with."""
    seeds: dict[str, set[int | None]] = {}
    for (criterion, _), rows in group.items():
        these = {row.seed for row in rows}
        seeds[criterion] = seeds.get(criterion, these) & these
    return {
        key: statistics.mean(row.own_statistics for row in rows if row.seed in seeds[key[0]])
        for key, rows in group.items()
    }


def table(title: str, columns: str, rows: Iterable[str]) -> str:
    return "\n".join([f"### {title}", "", f"| {columns} |", "|---" * (columns.count("|") + 1) + "|", *rows])


def spread(each: Sequence[float]) -> str:
    """The mean, and the standard deviation where there are several."""
    deviation = f" ± {100 * statistics.stdev(each):.1f}" if len(each) > 1 else ""
    return f"{100 * statistics.mean(each):.1f}{deviation}"


def network_tables(found: Mapping[str, list[Row]]) -> Iterator[str]:
    """A table for each network and share, best criterion first."""
    for (name, rows), remove in product(found.items(), REMOVE):
        group = grouped(rows, remove)
        lines = []
        for criterion in CRITERIA:
            mine = group.get((criterion, own(criterion)), [])
            ways = {way: each for (of, way), each in alike(group).items() if of == criterion}
            if not mine:
                lines.append((-1.0, f"{criterion} | not run | | | |"))
                continue
            best = max(ways, key=lambda way: (ways[way], way == own(criterion)))
            shown = [row.own_statistics for row in mine]
            as_cut = [row.as_cut for row in mine if row.as_cut is not None]
            text = (
                f"{criterion} | {', '.join(own(criterion))} | {spread(as_cut) if as_cut else 'not run'} "
                f"| {spread(shown)} | {', '.join(best)} | {100 * (ways[best] - ways[own(criterion)]):+.1f} |"
            )
            lines.append((statistics.mean(shown), text))
        lines.sort(reverse=True)
        yield table(
            f"{name}, {remove:.0%} of MACs removed",
            "| criterion | own way | as cut | statistics anew | best way | by",
            (f"| {rank} | {text}" for rank, (_, text) in enumerate(lines, start=1)),
        )


def everywhere(places: Sequence[Mapping[Key, float]]) -> dict[Key, float]:
    """The mean over networks and shares, of what was measured in all of them."""
    shared = set.intersection(*(set(place) for place in places))
    return {key: statistics.mean(place[key] for place in places) for key in shared}


def over_all(found: Mapping[str, list[Row]]) -> Iterator[str]:
    """Criteria, ways, and what both together say of the default."""
    groups = [grouped(rows, remove) for rows in found.values() for remove in REMOVE]
    places = [alike(group) for group in groups]
    mean = everywhere(places)
    lines = []
    for name in CRITERIA:
        # Of equal ways the criterion's own is the best.
        ways = [way for way in WAYS if (name, way) in mean]
        ways.sort(key=lambda way: (mean[name, way], way == own(name), -WAYS.index(way)))
        if own(name) in ways:
            mine = [group[name, own(name)] for group in groups]
            anew = 100 * statistics.mean(statistics.mean(row.own_statistics for row in rows) for rows in mine)
            as_cut = [[row.as_cut for row in rows if row.as_cut is not None] for rows in mine]
            cut_only = (
                f"{100 * statistics.mean(map(statistics.mean, as_cut)):.1f}" if all(as_cut) else "not run"
            )
            best, worst = (f"{', '.join(way)} | {100 * mean[name, way]:.1f}" for way in (ways[-1], ways[0]))
            text = f"{name} | {', '.join(own(name))} | {cut_only} | {anew:.1f} | {best} | {worst} | {len(ways)} |"
            lines.append((anew, text))
    yield table(
        f"Mean over {' and '.join(found)} and the three shares",
        "| criterion | own way | as cut | statistics anew | best way | | worst way | | ways measured",
        (f"| {rank} | {text}" for rank, (_, text) in enumerate(sorted(lines, reverse=True), start=1)),
    )
    for name, rows in found.items():
        of = alike_of(rows)
        scales = list(NORMALISATIONS)
        tried = {each: {way for way in WAYS if (each, way) in of} for each in CRITERIA if each != "random"}
        whole = [each for each, ways in tried.items() if len(ways) > 1]
        if whole:
            known = set.intersection(*(tried[each] for each in whole))
            yield table(
                f"Ways for {name}, mean over {', '.join(whole)} and the three shares",
                f"| {' | '.join(scales)}",
                (
                    " | ".join(
                        [f"| {combine}", *(way_mean(of, whole, (combine, each), known) for each in scales)]
                    )
                    + " |"
                    for combine in COMBINATIONS
                ),
            )
    ranked = sorted(mean, key=lambda key: (-mean[key], WAYS.index(key[1])))
    if PRESENT in mean:
        yield table(
            f"The best of {len(mean)}, beside the default",
            "| criterion | way | mean | over the default | better than it in",
            (
                f"| {rank} | {key[0]} | {', '.join(key[1])} | {100 * mean[key]:.1f} "
                f"| {100 * (mean[key] - mean[PRESENT]):+.1f} "
                f"| {sum(place[key] > place[PRESENT] for place in places)} of {len(places)} |"
                for rank, key in enumerate(ranked, start=1)
                if rank <= 12 or key == PRESENT
            ),
        )


def way_mean(of: Mapping[Key, float], criteria: Sequence[str], way: Way, known: set[Way]) -> str:
    """A way's mean over criteria, where it was measured for all of them."""
    return f"{100 * statistics.mean(of[each, way] for each in criteria):.1f}" if way in known else "not run"


def alike_of(rows: Sequence[Row]) -> dict[Key, float]:
    """The mean over the shares in one network."""
    return everywhere([alike(grouped(rows, remove)) for remove in REMOVE])


def figures(found: Mapping[str, list[Row]]) -> dict[str, float]:
    """The mean of every criterion's own way, of the default, and of the best."""
    mean = everywhere([alike(grouped(rows, remove)) for rows in found.values() for remove in REMOVE])
    named = {f"mean_{name}": mean[name, own(name)] for name in CRITERIA if (name, own(name)) in mean}
    return named | {"best": max(mean.values(), default=0.0), "combinations_compared": len(mean)}


def put(page: Path, text: str) -> None:
    """Between the marks of the page, in place of what was there."""
    head, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    _, mark, tail = rest.partition(MARKS[1])
    if not mark:
        sys.exit(f"{page} lacks the marks {' and '.join(MARKS)}")
    page.write_text(f"{head}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{tail}", encoding="utf-8")
