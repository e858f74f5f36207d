"""Time and memory of a repair of ResNet-50 at 224 pixels, beside the teacher's forward pass and a step of training.

python benchmarks/repair_cost.py repair --threads 1        # one arm in this process; `repair.py` runs all of them
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torchvision.models import resnet50

from compressor.pruning.cutting import cut
from compressor.pruning.graph.trace import trace
from compressor.pruning.repairing.fit_network import numbered, repaired
from compressor.pruning.scoring.score import score
from compressor.pruning.widths.allocate import allocate
from compressor.recipe.budget import Budget

Row = dict[str, Any]
COST_IMAGES, COST_BATCH = 128, 32


def big() -> tuple[nn.Module, torch.Tensor]:
    """ResNet-50 with random weights, and images of 224 pixels."""
    torch.manual_seed(0)
    return resnet50().eval(), torch.randn(COST_IMAGES, 3, 224, 224)


def forward_cost() -> Row:
    network, images = big()
    gc.collect()
    start = time.perf_counter()
    with torch.no_grad():
        for batch in images.split(COST_BATCH):
            network(batch)
    return {"seconds": time.perf_counter() - start, "peak_mb": peak_mb()}


def training_cost() -> Row:
    network, images = big()
    start = time.perf_counter()
    network.train()(images[:COST_BATCH]).square().mean().backward()
    return {"seconds": time.perf_counter() - start, "peak_mb": peak_mb()}


def repair_cost() -> Row:
    network, images = big()
    graph = trace(network, images[:1])
    plan = allocate(graph, score(network, graph, "lamp"), Budget(0.5)).plan
    small = cut(network, plan)
    start = time.perf_counter()
    result = repaired(small, network, plan, numbered(list(images.split(COST_BATCH))))
    return {
        "seconds": time.perf_counter() - start,
        "peak_mb": peak_mb(),
        "output_error": [result.before, result.after],
    }


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


COSTS: dict[str, Callable[[], Row]] = {
    "forward": forward_cost,
    "training": training_cost,
    "repair": repair_cost,
}


def repair_costs(threads: int, done: Callable[[int], bool]) -> Iterator[Row]:
    """Each arm in a process of its own, twice, interleaved; without the turns that are ``done``."""
    for turn in range(2):
        if done(turn):
            continue
        found = {}
        for arm in COSTS:
            command = [sys.executable, __file__, arm, "--threads", str(threads)]
            ran = subprocess.run(command, capture_output=True, text=True, check=True)
            found[arm] = json.loads(ran.stdout.splitlines()[-1])
        yield {
            "network": "resnet50",
            "turn": turn,
            "images": COST_IMAGES,
            "batch": COST_BATCH,
            **found,
            "times_forward": found["repair"]["seconds"] / found["forward"]["seconds"],
            "times_memory": found["repair"]["peak_mb"] / found["training"]["peak_mb"],
        }


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("arm", choices=COSTS)
    options.add_argument("--threads", type=int, default=1)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    print(json.dumps(COSTS[given.arm]()))


if __name__ == "__main__":
    main()
