"""Does choosing widths by measured time pay? Ours beside torch-pruning at the same MACs, in ONNX Runtime on the CPU.

    python benchmarks/latency.py --work DIR --json FILE [--networks mobilenet_v2,...]

For each network and each share of MACs removed: torch-pruning uniform and global, as it comes and rounded to 8 and 16;
ours with no more MACs, no less of the scores kept than the best of these, and the least time; and `of = latency` with
the same share. All files of a network are timed in one interleaved run, by CPU time and by wall time. ``--again`` times
the files of an earlier run once more, ``--refit`` makes those of `of = latency` anew before that. The scores are the
same for all (l2 of weights, by the mean of each group). Published weights are not at hand everywhere: without
``--pretrained`` weights are random, with scales of channels from a log-normal distribution, which spreads scores about
as training does.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from latency_peers import SETTINGS, pruned
from record import keep
from torch import Tensor, nn

from compressor.errors import UsageError
from compressor.exporting import open_session
from compressor.exporting.onnx import to_onnx
from compressor.profiling import measure
from compressor.pruning.cutting import cut
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.graph.cost import costs_of, full_widths
from compressor.pruning.graph.trace import trace
from compressor.pruning.scoring.score import score
from compressor.pruning.scoring.scores import Scores
from compressor.pruning.widths.allocate import Allocation, allocate
from compressor.pruning.widths.latency_cost import Latency
from compressor.recipe import ExportRecipe, ProfileRecipe
from compressor.recipe.budget import Budget
from compressor.recipe.saliency import Scoring
from compressor.run.measured_widths.bench import Bench
from compressor.run.measured_widths.fit import fit

NETWORKS = ("mobilenet_v2", "resnet50", "efficientnet_b0", "vgg16_bn")
SHARES = (0.5, 0.7)
ROUNDS = 30
SECONDS = 150.0


@dataclass(frozen=True)
class Entry:
    """One file of a network: which way made it, for which share, and what is known of it without running it."""

    way: str
    share: float
    file: str
    macs: int
    kept: float


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--work", type=Path, required=True, help="where the ONNX files go")
    options.add_argument("--json", type=Path, required=True)
    options.add_argument("--networks", default=",".join(NETWORKS))
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--pretrained", action="store_true")
    options.add_argument("--refit", action="store_true", help="choose the widths of `of = latency` once more")
    options.add_argument("--again", action="store_true", help="time the files in --work once more")
    given = options.parse_args()
    known = json.loads(given.json.read_text())["samples"] if given.json.exists() else {}
    for name in given.networks.split(","):
        work = given.work / name
        work.mkdir(parents=True, exist_ok=True)
        if given.refit:
            refit(name, known[name], work)
        if given.again or given.refit:
            entries = [
                Entry(*(row[key] for key in ("way", "share", "file", "macs", "kept")))
                for row in known[name]["rows"]
            ]
            known[name]["rows"] = _timed(entries, work, given.threads, an_image())
        else:
            known[name] = measured(name, work, given.threads, given.pretrained)
        keep(given.json, figures(known), known)
        for title, figure in figures(known).items():
            print(f"{title:<32} {figure:.4g}", flush=True)


def measured(name: str, work: Path, threads: int, pretrained: bool) -> dict[str, Any]:
    """Everything about one network."""
    network = network_named(name, pretrained)
    image = an_image()
    graph = trace(network, image)
    scores = score(network, graph, Scoring("l2", normalise="mean"))
    full = costs_of(graph)["macs"].of(full_widths(graph))
    bench = Bench(network, image, work, ExportRecipe(), ProfileRecipe(threads=threads))
    latency = bench.latency(graph, Budget(0.5, "latency"))
    entries = [Entry("teacher", 0.0, bench.file.name, full, 1.0)]
    fits = {}
    for share in SHARES:
        peers = _peers(network, graph, scores, image, share, round(full * (1 - share)), work)
        entries += peers
        enough = max(entry.kept for entry in peers)
        ours = least_time(graph, scores, latency, round(full * (1 - share)), enough)
        entries.append(
            _written(
                "ours", share, cut(network, ours.plan), ours.plan.costs["macs"][1], ours.kept, work, image
            )
        )
        fitted = fit(network, graph, scores, Budget(share, "latency"), bench, {"latency": latency})
        fits[share] = fitted.to_dict()
        plan = fitted.allocation.plan
        target = f"of-latency-{share}.onnx"
        fitted.chosen.file.replace(work / target)
        entries.append(Entry("of latency", share, target, plan.costs["macs"][1], fitted.allocation.kept))
        print(name, share, "built", flush=True)
    rows = _timed(entries, work, threads, image)
    return {"rows": rows, "fits": fits, "teacher_macs": full, "threads": threads, "pretrained": pretrained}


def refit(name: str, known: dict[str, Any], work: Path) -> None:
    """The files of `of = latency` anew, in place."""
    network, image = network_named(name, known["pretrained"]), an_image()
    graph = trace(network, image)
    scores = score(network, graph, Scoring("l2", normalise="mean"))
    bench = Bench(network, image, work, ExportRecipe(), ProfileRecipe(threads=known["threads"]))
    latency = bench.latency(graph, Budget(0.5, "latency"))
    known["fits"] = {}
    for share in SHARES:
        fitted = fit(network, graph, scores, Budget(share, "latency"), bench, {"latency": latency})
        known["fits"][share] = fitted.to_dict()
        row = next(row for row in known["rows"] if (row["way"], row["share"]) == ("of latency", share))
        row["macs"] = fitted.allocation.plan.costs["macs"][1]
        row["kept"] = fitted.allocation.kept
        fitted.chosen.file.replace(work / row["file"])


def an_image() -> Tensor:
    return torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def network_named(name: str, pretrained: bool) -> nn.Module:
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(weights="DEFAULT" if pretrained else None).eval()
    if not pretrained:
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    scale = torch.exp(0.5 * torch.randn(len(module.weight)))
                    module.weight.mul_(scale.view(-1, *[1] * (module.weight.dim() - 1)))
    return network


def _peers(
    network: nn.Module,
    graph: ChannelGraph,
    scores: Scores,
    image: Tensor,
    share: float,
    macs: int,
    work: Path,
) -> list[Entry]:
    entries = []
    for way, (everywhere, round_to) in SETTINGS.items():
        found = pruned(network, graph, scores, image, macs, everywhere=everywhere, round_to=round_to)
        entries.append(_written(way, share, found.network, found.macs, found.kept, work, image))
        print(way, share, f"{found.macs / macs:.4f} of the MACs asked, kept {found.kept:.4f}", flush=True)
    return entries


def least_time(graph: ChannelGraph, scores: Scores, latency: Latency, macs: int, kept: float) -> Allocation:
    """The least time within ``macs`` that keeps at least this share of the scores, by bisection on the time."""
    budget = Budget(0.0, max_macs=macs)
    best = allocate(graph, scores, budget, measured={"latency": latency})
    high = best.plan.costs["latency"][1] / 1000
    low = high / 4
    for _ in range(8):
        middle = (low + high) / 2
        try:
            found = allocate(
                graph, scores, replace(budget, max_latency_ms=middle), measured={"latency": latency}
            )
        except UsageError:
            low = middle
            continue
        if found.kept >= kept:
            best, high = found, middle
        else:
            low = middle
    return best


def _written(
    way: str, share: float, network: nn.Module, macs: int, kept: float, work: Path, image: Tensor
) -> Entry:
    file = f"{way.replace(' ', '-')}-{share}.onnx"
    to_onnx(network, image, work / file)
    return Entry(way, share, file, macs, kept)


def _timed(entries: list[Entry], work: Path, threads: int, image: Tensor) -> list[dict[str, Any]]:
    calls = {}
    for number, entry in enumerate(entries):
        session = open_session(work / entry.file, threads=threads)
        calls[str(number)] = lambda session=session: session.run({session.inputs[0].name: image.numpy()})
    timings = measure(calls, samples=ROUNDS, budget_s=SECONDS)
    return [
        {
            "way": entry.way,
            "share": entry.share,
            "file": entry.file,
            "macs": entry.macs,
            "kept": entry.kept,
            "wall_ms": list(timings[str(number)].samples_ms),
            "cpu_ms": list(timings[str(number)].cpu_ms),
        }
        for number, entry in enumerate(entries)
    ]


def figures(known: dict[str, Any]) -> dict[str, float]:
    """The figures, by CPU time; those by wall time beside them."""
    found: dict[str, float] = {}
    for clock in ("cpu_ms", "wall_ms"):
        plain, rounded, efficiency, errors, kept = [], [], [], [], []
        for about in known.values():
            rows = {(row["way"], row["share"]): row for row in about["rows"]}
            teacher = rows["teacher", 0.0]
            for share in SHARES:
                ours, asked = rows["ours", share], rows["of latency", share]
                for way, (_, step) in SETTINGS.items():
                    (rounded if step else plain).append(
                        (_ratio(rows[way, share], ours, clock), id(about), share)
                    )
                kept.append(ours["kept"] - max(rows[way, share]["kept"] for way in SETTINGS))
                speedup = _ratio(teacher, ours, clock)
                efficiency.append(speedup / (teacher["macs"] / ours["macs"]))
                errors.append(abs(1 / _ratio(teacher, asked, clock) / (1 - share) - 1))
        end = "" if clock == "cpu_ms" else "_wall"
        found[f"speedup_vs_torch_pruning{end}"] = statistics.geometric_mean(ratio for ratio, *_ in plain)
        found[f"worst_vs_rounded{end}"] = min(ratio for ratio, *_ in rounded)
        found[f"macs_efficiency{end}"] = statistics.geometric_mean(efficiency)
        found[f"target_error_max{end}"] = max(errors)
        found["scores_kept_more_min"] = min(kept)
    return found


def _ratio(before: dict[str, Any], after: dict[str, Any], clock: str) -> float:
    """How many times as long ``before`` takes, in the usual round."""
    return math.exp(
        statistics.median(math.log(a / b) for a, b in zip(before[clock], after[clock], strict=True))
    )


if __name__ == "__main__":
    main()
