"""Which criterion to score channels by: accuracy just after the cut, without any training.

    python benchmarks/criteria.py --data PATH --json FILE --page docs/criteria.md
    python benchmarks/criteria.py --quick

Every criterion, with every way to put a group's slots together (``combine``) and groups on one scale
(``normalise``), removes 30, 50 and 70 % of the MACs of two trained networks: the built-in one, and ResNet-56 for
CIFAR-10 if ``--data`` has it. Accuracy is taken as cut and with running statistics measured anew. The seed chooses
the batches that are read and the lot of ``random``; criteria of weights have one value and no seed.

``gate-cascade`` scores a smaller network: first ``gate``, combined in its own way, removes half of what is to go and
statistics are measured anew; that network is traced and scored with the whole one as its teacher, and cut again.

PATH has ``cifar10/{train,test}/CLASS.webp``, mosaics of 32 x 32 tiles, and ``resnet56-cifar10.safetensors``. What
FILE holds already is not measured again, so a run that was stopped goes on. Without ``--minutes`` all is measured;
with it, the most telling first: each criterion's own way, then all ways of seed 0, then those of the other seeds.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cifar import cifar10, resnet56
from torch import nn

from compressor.data import load_data
from compressor.data.in_memory import TensorSplit
from compressor.data.split import Data
from compressor.errors import CompressError
from compressor.profiling import fingerprint
from compressor.pruning.cutting import cut
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.graph.trace import trace
from compressor.pruning.scoring.combine import COMBINATIONS, NORMALISATIONS
from compressor.pruning.scoring.criteria import CRITERIA
from compressor.pruning.scoring.score import AxisScores, gather, score_axes
from compressor.pruning.widths.allocate import allocate
from compressor.recipe import Recipe
from compressor.recipe.budget import Budget
from compressor.recipe.saliency import Scoring
from compressor.run.teacher import load_teacher
from compressor.training import accuracy, reestimate

REMOVE = (0.3, 0.5, 0.7)
SEEDS = (0, 1, 2)
Way = tuple[str, str]
Key = tuple[str, Way]
WAYS: tuple[Way, ...] = tuple(product(COMBINATIONS, NORMALISATIONS))
_DEFAULT = CRITERIA[Scoring().criterion]
PRESENT = (Scoring().criterion, (_DEFAULT.combine, _DEFAULT.normalise))
CASCADE = "gate-cascade"
BATCH = 128
MARKS = ("<!-- written by benchmarks/criteria.py -->", "<!-- end of what was written -->")


class Subject(NamedTuple):
    """A trained network that knows the data; how many batches of ``data.train`` scoring and statistics read."""

    name: str
    network: nn.Module
    data: Data
    scoring: int
    statistics: int


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


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--data", type=Path, metavar="PATH", help="where CIFAR-10 and ResNet-56 lie")
    options.add_argument("--only-data", action="store_true", help="leave the built-in network out")
    options.add_argument("--minutes", type=float, default=float("inf"), help="for a network, then no new cut")
    options.add_argument("--quick", action="store_true", help="seed 0, own ways, few images")
    options.add_argument("--criteria", type=lambda text: text.split(","), default=[*CRITERIA], metavar="A,B")
    options.add_argument(
        "--seeds", type=lambda text: [*map(int, text.split(","))], default=SEEDS, metavar="0,1"
    )
    options.add_argument("--own-ways", action="store_true", help="every criterion in its own way only")
    options.add_argument(
        "--anew-only", action="store_true", help="accuracy as cut in a criterion's own way only"
    )
    options.add_argument("--json", type=Path, help="read what was measured, and write all here")
    options.add_argument("--page", type=Path, help="put the tables between the marks of this page")
    given = options.parse_args()
    torch.set_num_threads(1)
    about: dict[str, Any] = {}
    if given.json and given.json.exists():
        about = json.loads(given.json.read_text())["samples"]
    asked = [
        cell
        for cell in cells()
        if cell[0] in given.criteria
        and (cell[1] or 0) in ((0,) if given.quick else given.seeds)
        and (cell[2:] == own(cell[0]) or not (given.quick or given.own_ways))
    ]
    builders: list[Callable[[bool], Subject]] = [] if given.only_data else [glyphs]
    if given.data:
        builders.append(partial(cifar, given.data))
    for build in builders:
        subject = build(given.quick)
        subject = subject._replace(name=subject.name + " (quick)" * given.quick)
        facts = about.setdefault(subject.name, {"rows": [], "failures": {}})
        done = {tuple(row[:5]) for row in facts["rows"]}
        left = [cell for cell in asked if any((*cell, remove) not in done for remove in REMOVE)]
        facts |= {
            "teacher": accuracy(subject.network, subject.data.test),
            "test_images": len(subject.data.test),
            "scoring_images": subject.scoring * BATCH,
            "statistics_images": subject.statistics * BATCH,
            "asked": len(cells()) * len(REMOVE),
        }
        print(f"{subject.name}: teacher {facts['teacher']:.4f}, {len(left)} combinations to go", flush=True)
        for row in measured(subject, left, given.minutes * 60, facts["failures"], given.anew_only):
            if tuple(row[:5]) not in done:
                facts["rows"].append(list(row))
                if len(facts["rows"]) % 10 == 0:
                    print(f"{len(facts['rows'])}/{facts['asked']}:", *row, flush=True)
                    write(given.json, about)
    found = {name: [Row(*row) for row in facts["rows"]] for name, facts in about.items()}
    write(given.json, about, figures(found))
    text = "\n\n".join([where_from(about), *network_tables(found), *over_all(found)])
    print(text)
    if given.page:
        put(given.page, text)


def own(criterion: str) -> Way:
    """How the criterion is put together if nobody says otherwise."""
    return CRITERIA[criterion].combine, CRITERIA[criterion].normalise


def cells() -> list[tuple[str, int | None, str, str]]:
    """All that is to be measured, the most telling first."""
    every = [
        (name, seed, *way)
        for name, criterion in CRITERIA.items()
        for seed in (SEEDS if criterion.reads_data or name == "random" else (None,))
        for way in WAYS
    ]
    return sorted(every, key=lambda cell: (cell[2:] != own(cell[0]), cell[1] or 0, *far(cell[2:])))


def far(way: tuple[str, ...]) -> tuple[int, int]:
    """How much of the usual way is changed, and a number of its own."""
    changed = sum(each != usual for each, usual in zip(way, PRESENT[1], strict=True))
    return changed, WAYS.index((way[0], way[1]))


def measured(
    subject: Subject,
    asked: Sequence[tuple[Any, ...]],
    seconds: float,
    failures: dict[str, str],
    anew_only: bool,
) -> Iterator[Row]:
    """The cuts in order, until the time is over."""
    start = time.monotonic()
    network, train, test = subject.network, subject.data.train, subject.data.test
    example = torch.zeros(1, *subject.data.shape)
    graph = trace(network, example)

    @cache
    def axes(criterion: str, seed: int) -> AxisScores:
        batches = islice(train.batches(BATCH, shuffle=seed), subject.scoring)
        return score_axes(network, graph, Scoring(criterion), batches, seed=seed)

    @cache
    def half(seed: int, remove: float) -> tuple[nn.Module, ChannelGraph, AxisScores, float]:
        scores = gather(graph, axes("gate", seed), Scoring("gate"))
        plan = allocate(graph, scores, Budget(remove=remove / 2)).plan
        smaller = with_own_statistics(cut(network, plan), subject)
        traced = trace(smaller, example)
        batches = islice(train.batches(BATCH, shuffle=seed), subject.scoring)
        scored = score_axes(smaller, traced, Scoring(CASCADE), batches, teacher=network)
        return smaller, traced, scored, plan.removed("macs")

    accuracies: dict[tuple[Any, ...], tuple[float | None, float]] = {}
    for (criterion, seed, combine, normalise), remove in product(asked, REMOVE):
        if time.monotonic() - start > seconds:
            return
        try:
            larger, traced, scored, gone = network, graph, axes(criterion, seed or 0), 0.0
            if criterion == CASCADE:
                larger, traced, scored, gone = half(seed, remove)
            scores = gather(traced, scored, Scoring(criterion, combine, normalise))
            plan = allocate(traced, scores, Budget(remove=1 - (1 - remove) / (1 - gone))).plan
        except CompressError as error:
            failures[f"{criterion}, seed {seed}, {combine}, {normalise}, {remove:.0%}"] = str(error)
            continue
        # Many ways choose the same channels. A cascade's network is another one, for each seed and each share.
        same = (json.dumps(plan.to_dict()["slices"]), *((seed, remove) if larger is not network else ()))
        if same not in accuracies:
            smaller = cut(larger, plan)
            again = with_own_statistics(smaller, subject)
            looked = not anew_only or (combine, normalise) == own(criterion)
            as_cut = accuracy(smaller, test, batch=64) if looked else None
            accuracies[same] = as_cut, accuracy(again, test, batch=64)
        removed = 1 - (1 - gone) * (1 - plan.removed("macs"))
        yield Row(criterion, seed, combine, normalise, remove, round(removed, 5), *accuracies[same])


def with_own_statistics(network: nn.Module, subject: Subject) -> nn.Module:
    """The network with running statistics measured anew, on the same images every time."""
    return reestimate(network, subject.data.train, batches=subject.statistics, batch=BATCH)


def glyphs(quick: bool) -> Subject:
    """The built-in pair; labels of its images go round, so the first are as good as all."""
    recipe = Recipe()
    data = load_data(recipe.data, recipe.seed)
    teacher = load_teacher(recipe, data, device=torch.device("cpu"), progress=lambda name, now: None)
    test = data.test
    assert isinstance(test, TensorSplit)
    few = 360 if quick else 2000
    data = replace(data, test=replace(test, images=test.images[:few], labels=test.labels[:few]))
    return Subject("glyphnet", teacher.network, data, 2 if quick else 8, 4 if quick else 20)


def cifar(folder: Path, quick: bool) -> Subject:
    """ResNet-56, its weights from a file, on some images of each class."""
    network, data = resnet56(folder), cifar10(folder, *((100, 10) if quick else (500, 50)))
    return Subject("resnet56", network, data, 1 if quick else 4, 1 if quick else 4)


def write(path: Path | None, about: Mapping[str, Any], numbers: Mapping[str, float] | None = None) -> None:
    """All that is known so far, a row a line, with every command that had a part in it."""
    if path is None:
        return
    before = json.loads(path.read_text()).get("commands", []) if path.exists() else []
    record: dict[str, Any] = {"figures": numbers or {}, "environment": fingerprint()}
    record["commands"] = list(dict.fromkeys([*before, command()]))
    record["columns"], record["samples"] = Row._fields, about
    text = json.dumps(record, indent=1)
    path.write_text(re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text) + "\n")


def command() -> str:
    """As it was given; where the data lay says nothing."""
    words = [*sys.argv]
    if "--data" in words:
        words[words.index("--data") + 1] = "PATH"
    return " ".join(["python", *words])


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


if __name__ == "__main__":
    main()
