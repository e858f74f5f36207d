"""How long it takes to know which channels belong together: ours, torch-pruning, one forward pass.

    pip install --no-deps torch-pruning
    python benchmarks/graph.py --json FILE
    python benchmarks/graph.py --models torchvision:resnet50,timm:vit_tiny_patch16_224 --repeats 9

In each round of a network come, one after the other in this process: our ``trace``, which gives all groups;
torch-pruning's ``build_dependency`` and then all of its groups; a forward pass of one image. The first round
warms up and is not counted. Times are CPU time of one thread, with the garbage of others collected before; a
speed-up is the median of the ratios within rounds. Where one sees a single group the other may see several
(in attention, above all), so both numbers of groups are printed.

In torch-pruning's favour the classifier is not enumerated, auxiliary heads are off, and timm's attention is
unfused for all three, because the fused kernel hides what must be followed; hints about heads take no time
and are left out. Where it fails or runs out of time the table says so, and the run goes on.

Last, ResNet-152 loses half of its MACs by lot: the time of ``cut`` alone; and in a fresh process the peak of
memory from tracing to the student, which is part of it, as a multiple of the model.
"""

from __future__ import annotations

import argparse
import copy
import gc
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("TIMM_FUSED_ATTN", "0")  # timm reads it when it is imported

import numpy as np
import torch
from record import write_figures
from torch import Tensor, nn

from compressor.models.names import ModelSource, build
from compressor.profiling import count
from compressor.pruning.cutting import cut
from compressor.pruning.graph.trace import trace
from compressor.pruning.scoring.scores import Scores
from compressor.pruning.widths.allocate import allocate
from compressor.pruning.widths.plan import Plan
from compressor.recipe.budget import Budget

MODELS = """resnet18 resnet50 resnet152 mobilenet_v2 mobilenet_v3_small densenet121 densenet201 efficientnet_b0
efficientnet_v2_s googlenet inception_v3 regnet_y_1_6gf resnext50_32x4d convnext_tiny vgg16_bn squeezenet1_1
vit_b_16 timm:vit_tiny_patch16_224 timm:hrnet_w18_small timm:ghostnet_100 timm:seresnet50 timm:inception_v4
timm:dla34""".split()
SIDES = {"inception_v3": 299}  # of images for which 224 pixels will not do; timm says for itself
CLASSES = 1000  # a layer of this many outputs is the classifier
WIDTHS = ("out_features", "out_channels")
LIMIT_S = 60  # for one round of torch-pruning on one network
OTHERS = ("timm", "torch-pruning")
MARK = Path("/proc/self/clear_refs")  # write 5: the high-water mark of memory is set back to the present
PARTS = {"ours": "ours", "build": "their build", "groups": "build + groups", "forward": "forward"}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--models", type=lambda text: text.split(","), default=MODELS, metavar="NAME,NAME")
    options.add_argument("--repeats", type=int, default=5, help="rounds after the one that warms up")
    options.add_argument("--json", type=Path, help="write the figures here")
    given = options.parse_args()
    torch.set_num_threads(1)
    titles = "".join(f"{title:>24}" for title in PARTS.values())
    print(f"{'CPU ms: median (min-max)':<28}{'GMACs':>7}{'groups':>10}{titles}{'x build':>9}{'x both':>8}")
    networks = {}
    for name in given.models:
        networks[name] = compare(name.removeprefix("torchvision:"), given.repeats)
        print(f"{name:<28}{described(networks[name])}", flush=True)
    slower = [name for name, row in networks.items() if row.get("slower_than_forward")]
    print(f"slower_than_forward: {slower} (of those above 1 GMAC)")
    figures = speedups(networks) | {"slower_than_forward": len(slower)}
    samples: dict[str, Any] = {"clock": "CPU seconds", "networks": networks, "slower_than_forward": slower}
    network, image = network_and_image("resnet152")
    plan = half_by_lot(network, image)
    samples["cut_resnet152"] = [timed(lambda: cut(network, plan))[0] for _ in range(given.repeats + 1)][1:]
    figures["cut_resnet152_seconds"] = statistics.median(samples["cut_resnet152"])
    if MARK.exists():
        with multiprocessing.get_context("spawn").Pool(1) as fresh:
            samples["memory"] = fresh.apply(memory_of_a_cut)
        figures["memory_ratio"] = samples["memory"]["peak"] / samples["memory"]["model"]
    samples["packages"] = {one.name: one.version for one in metadata.distributions() if one.name in OTHERS}
    write_figures(given.json, figures, samples)


def compare(name: str, repeats: int) -> dict[str, Any]:
    """All samples of one network, and what follows from them; or why there are none."""
    samples: dict[str, list[float]] = {part: [] for part in PARTS}
    row: dict[str, Any] = {"samples_s": samples}
    try:
        network, image = network_and_image(name)
        theirs = copy.deepcopy(network)  # a failure half-way may leave its hooks behind
        row["macs"] = count(network, (image,)).macs
        for number in range(repeats + 1):
            spent = {}
            spent["ours"], graph = timed(lambda: trace(network, image))
            row["groups"] = len(graph.groups)
            if "their_failure" not in row:
                try:
                    spent["build"], spent["groups"], row["their_groups"] = torch_pruning(theirs, image)
                except Exception as error:
                    row["their_failure"] = repr(error)
                    samples["build"], samples["groups"] = [], []
            with torch.no_grad():
                spent["forward"], _ = timed(lambda: network(image))
            for part, seconds in spent.items() if number else ():
                samples[part].append(seconds)
    except Exception as error:  # one network of many: its reason is in the table
        return {"failure": repr(error)}
    for part in ("build", "groups") if "their_failure" not in row else ():
        ratios = [theirs / ours for theirs, ours in zip(samples[part], samples["ours"], strict=True)]
        row[f"speedup_{part}"] = statistics.median(ratios)
    ours, forward = statistics.median(samples["ours"]), statistics.median(samples["forward"])
    row["slower_than_forward"] = row["macs"] > 1e9 and ours > forward
    return row


def network_and_image(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    network = build(ModelSource(name))
    side = getattr(network, "default_cfg", {}).get("input_size", (3, SIDES.get(name, 224)))[-1]
    return network, torch.rand(1, 3, side, side)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of some work, and its result, which lives until the clock has stopped."""
    gc.collect()
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def torch_pruning(network: nn.Module, image: Tensor) -> tuple[float, float, int]:
    """CPU seconds of its build, of build and groups together, and the number of groups."""
    tp = import_module("torch_pruning")
    classifier = [each for each in network.modules() if CLASSES in (vars(each).get(key) for key in WIDTHS)]
    signal.signal(signal.SIGALRM, out_of_time)
    # Wall time: a timer of CPU time would coarsen the CPU clock to 4 ms. Each second again: it has a bare except.
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S, 1)
    try:
        graph = tp.DependencyGraph()
        build_s, _ = timed(lambda: graph.build_dependency(network, example_inputs=image, verbose=False))
        groups_s, groups = timed(lambda: list(graph.get_all_groups(ignored_layers=classifier)))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return build_s, build_s + groups_s, len(groups)


def out_of_time(*_: object) -> None:
    raise TimeoutError(f"stopped after {LIMIT_S} s")


def described(row: dict[str, Any]) -> str:
    if "failure" in row:
        return f"  {row['failure']}"
    times = "".join(spread(row["samples_s"][part]) for part in PARTS)
    text = f"{row['macs'] / 1e9:>7.2f}{row['groups']:>6}/{row.get('their_groups', '-'):<3}{times}"
    if "their_failure" in row:
        return f"{text}  torch-pruning: {row['their_failure']}"
    return f"{text}{row['speedup_build']:>9.1f}{row['speedup_groups']:>8.1f}"


def spread(seconds: list[float]) -> str:
    if not seconds:
        return f"{'-':>24}"
    low, middle, high = (1e3 * of(seconds) for of in (min, statistics.median, max))
    return f"{f'{middle:.1f} ({low:.1f}-{high:.1f})':>24}"


def speedups(networks: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Over the networks where torch-pruning works."""
    compared = [row for row in networks.values() if "speedup_groups" in row]
    figures: dict[str, float] = {"networks": len(networks), "networks_compared": len(compared)}
    if compared:
        figures["speedup_median"] = statistics.median(row["speedup_groups"] for row in compared)
        figures["speedup_min"] = min(row["speedup_groups"] for row in compared)
        figures["speedup_median_build_only"] = statistics.median(row["speedup_build"] for row in compared)
    return figures


def half_by_lot(network: nn.Module, image: Tensor) -> Plan:
    """Half of the MACs go, and chance decides which."""
    graph = trace(network, image)
    rng = np.random.default_rng(0)
    scores = Scores("by lot", {group.name: rng.random(group.units) for group in graph.groups})
    return allocate(graph, scores, Budget(remove=0.5)).plan


def memory_of_a_cut() -> dict[str, float]:
    """The peak of resident bytes from trace to cut, above those with the model just loaded."""
    small, image = network_and_image("mobilenet_v3_small")
    cut(small, half_by_lot(small, image))  # what is imported on first use is not counted
    network, image = network_and_image("resnet152")
    gc.collect()
    before = resident("VmRSS")
    MARK.write_text("5")
    plan = half_by_lot(network, image)
    traced = resident("VmHWM") - before
    student = cut(network, plan)
    peak = resident("VmHWM") - before
    model, left = (count(each, (image,)).bytes for each in (network, student))
    return {"model": model, "student": left, "peak_before_cut": traced, "peak": peak}


def resident(what: str) -> int:
    """Bytes: ``VmRSS`` now, ``VmHWM`` at most since the mark was set back."""
    return int(Path("/proc/self/status").read_text().split(f"{what}:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main()
