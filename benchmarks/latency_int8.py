"""Does it pay to choose widths by the time in INT8, when INT8 is what ships? ONNX Runtime on the CPU, one thread.

    python benchmarks/latency_int8.py --work DIR --json FILE [--networks resnet18,...] [--data DIR]

For each network and share: widths by the time in float32 (`of = latency`), and the INT8 file of that student; then
widths by the time in INT8 (`of = latency-int8`) that take as long as that file. At the same INT8 time, which keeps
more of the scores? All files of a network are then timed in one interleaved run, by CPU time. Scores and weights as in
latency.py; `resnet56` is trained, on CIFAR-10 (``--data``, with its weights).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cifar import resnet56
from latency import an_image, network_named
from record import keep
from torch import Tensor, nn

from compressor.errors import UsageError
from compressor.exporting import Asked, derived, open_session
from compressor.profiling import measure
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.graph.trace import trace
from compressor.pruning.scoring.score import score
from compressor.pruning.scoring.scores import Scores
from compressor.recipe import ExportRecipe, ProfileRecipe
from compressor.recipe.budget import Budget
from compressor.recipe.saliency import Scoring
from compressor.run.measured_widths.bench import Bench
from compressor.run.measured_widths.fit import Fitted, fit, measured_costs, on_its_granule

NETWORKS = ("resnet18", "mobilenet_v2", "efficientnet_b0", "regnet_y_400mf")
SHARES = (0.3, 0.5)
ROUNDS = 60
SECONDS = 60.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--work", type=Path, required=True, help="where the ONNX files go")
    options.add_argument("--json", type=Path, required=True)
    options.add_argument("--networks", default=",".join(NETWORKS))
    options.add_argument("--data", type=Path, help="folder with CIFAR-10's ResNet-56, for `resnet56`")
    given = options.parse_args()
    torch.set_num_threads(1)
    known = json.loads(given.json.read_text())["samples"] if given.json.exists() else {}
    for name in given.networks.split(","):
        work = given.work / name
        if name == "resnet56":
            network, image = resnet56(given.data), torch.zeros(1, 3, 32, 32)
        else:
            network, image = network_named(name, False), an_image()
        known[name] = {str(share): both_ways(network, image, share, work / str(share)) for share in SHARES}
        keep(given.json, figures(known), known)
        for share, row in known[name].items():
            print(name, share, json.dumps(row), flush=True)


def both_ways(network: nn.Module, image: Tensor, share: float, work: Path) -> dict[str, Any]:
    """The student by time in float32, and the one by time in INT8 that is as fast in INT8."""
    work.mkdir(parents=True, exist_ok=True)
    graph = trace(network, image)
    scores = score(network, graph, Scoring("l2", normalise="mean"))
    by_float = chosen(network, graph, scores, image, work / "onnx", Budget(share, "latency"))
    bench = bench_of(network, image, work / "onnx-int8", "onnx-int8")
    (real,) = bench.timed([by_float.chosen.file])
    as_fast = Budget(0.0, of="latency-int8", max_latency_ms=real.latency_ms)
    row: dict[str, Any] = {"by float32": told(by_float)}
    try:
        by_int8 = chosen(network, graph, scores, image, work / "onnx-int8", as_fast)
    except UsageError as error:
        return row | {"refused": str(error)}
    row["by INT8"] = told(by_int8)
    files = {"teacher": bench.file, "by float32": by_float.chosen.file, "by INT8": by_int8.chosen.file}
    return row | {"ms": times(files, image)}


def bench_of(network: nn.Module, image: Tensor, folder: Path, timed_as: str) -> Bench:
    folder.mkdir(parents=True, exist_ok=True)
    return Bench(network, image, folder, ExportRecipe(), ProfileRecipe(), timed_as)


def chosen(
    network: nn.Module, graph: ChannelGraph, scores: Scores, image: Tensor, folder: Path, budget: Budget
) -> Fitted:
    bench = bench_of(network, image, folder, budget.timed_as)
    budget = on_its_granule(budget, bench)
    return fit(network, graph, scores, budget, bench, measured_costs(graph, budget, bench))


def told(fitted: Fitted) -> dict[str, Any]:
    allocation = fitted.allocation
    return {"kept": allocation.kept, "macs_removed": allocation.plan.removed("macs"), "fit": fitted.to_dict()}


def times(files: dict[str, Path], image: Tensor) -> dict[str, float]:
    """The median CPU time of every file and of its INT8, all in turn."""
    noise = np.random.default_rng(0).standard_normal((4, *image.shape[1:]), np.float32)
    calls = {}
    for who, plain in files.items():
        int8 = derived("onnx-int8", plain, plain.with_suffix(".timed.onnx"), Asked((noise,))).path
        for precision, path in (("float32", plain), ("INT8", int8)):
            session = open_session(path, threads=1)
            calls[f"{who}, {precision}"] = lambda session=session: session(input=noise[:1])
    found = measure(calls, samples=ROUNDS, budget_s=SECONDS)
    return {name: statistics.median(timing.cpu_ms) for name, timing in found.items()}


def figures(known: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, shares in known.items():
        for share, row in shares.items():
            if "ms" not in row:
                continue
            key = f"{name}_{share}"
            found[f"kept_by_float32_{key}"] = row["by float32"]["kept"]
            found[f"kept_by_int8_{key}"] = row["by INT8"]["kept"]
            ms = row["ms"]
            for who, title in (("by float32", "float32"), ("by INT8", "int8")):
                found[f"int8_time_of_teacher_by_{title}_{key}"] = ms[f"{who}, INT8"] / ms["teacher, INT8"]
                found[f"int8_speedup_by_{title}_{key}"] = ms[f"{who}, float32"] / ms[f"{who}, INT8"]
    return found


if __name__ == "__main__":
    main()
