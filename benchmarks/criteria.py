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
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cifar import cifar10, resnet56
from criteria_tables import (
    PRESENT,
    REMOVE,
    WAYS,
    Row,
    figures,
    network_tables,
    over_all,
    own,
    put,
    where_from,
)
from torch import nn

from compressor.data import load_data
from compressor.data.in_memory import TensorSplit
from compressor.data.split import Data
from compressor.errors import CompressError
from compressor.profiling import fingerprint
from compressor.pruning.cutting import cut
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.graph.trace import trace
from compressor.pruning.scoring.criteria import CRITERIA
from compressor.pruning.scoring.score import AxisScores, gather, score_axes
from compressor.pruning.widths.allocate import allocate
from compressor.recipe import Recipe
from compressor.recipe.budget import Budget
from compressor.recipe.saliency import Scoring
from compressor.run.teacher import load_teacher
from compressor.training import accuracy, reestimate

SEEDS = (0, 1, 2)
CASCADE = "gate-cascade"
BATCH = 128


class Subject(NamedTuple):
    """A trained network that knows the data; how many batches of ``data.train`` scoring and statistics read."""

    name: str
    network: nn.Module
    data: Data
    scoring: int
    statistics: int


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


if __name__ == "__main__":
    main()
