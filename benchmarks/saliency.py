"""How long the scores of all channels take: ours, torch-pruning, and what one writes in plain torch.

    pip install --no-deps torch-pruning
    python benchmarks/saliency.py --json FILE
    python benchmarks/saliency.py --quick

In each round of a network come all contenders, one after the other in this process, in an order that changes. Each is
called twice on one of four equal copies of the network, in turn: the first call finds its copy out of the caches
(cold), the second may find it there (warm). The first round of each copy warms up and is not counted. On a CPU times
are CPU time of one thread, with the garbage of others collected before; on a GPU wall time between two waits for the
device. A speed-up is the median of the ratios within rounds.

On a GPU the figures are cold. On a CPU they are warm, and the cold ones stand beside them: ResNet-50 is larger than the
caches either way, while a copy that nobody touched for a second also pays for what the system did with its pages.

Before the clock starts, our sums are compared with the formulas in float64, and our groups' scores with torch-pruning's
where it counts the same terms. In its favour its groups are found beforehand, and its Taylor score, which leaves batch
norms out by default, is compared with ours, which reads them.

The ceiling is measured in the same rounds: a sum over an array of a quarter of a gigabyte (of four on a GPU), which
only reads. The share of bandwidth is what our scores must read, weights and gradients once, over their time, as a
share of that. On a GPU the time of the device alone is that of a CUDA graph of one call for each copy.

With ``--memory``, in fresh processes: the peak of memory of scoring, over that of a forward and backward pass.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata, util
from pathlib import Path
from typing import Any

import torch
from record import write_figures
from saliency_peers import Copy, copy_of, disagreement_with_torch_pruning, peers, places_of
from torch import Tensor

from compressor.data.split import Batch
from compressor.models.names import ModelSource, build
from compressor.pruning.graph.trace import trace
from compressor.pruning.scoring.kernels import reference
from compressor.pruning.scoring.kernels.sums import MOMENTS, channel_sums, choose, gate_sums
from compressor.pruning.scoring.score import score

MODELS = ["resnet18", "resnet50", "resnet152", "mobilenet_v2", "vgg16_bn", "vit_b_16"]
FIGURES_OF = "resnet50"
SCORES = {"taylor": "wg", "l2": "w2"}
MARK = Path("/proc/self/clear_refs")  # write 5: the high-water mark of memory is set back to the present
COPIES = 4  # the smallest network is then larger than the caches of the GPUs and CPUs that we know of
# Within a block float32 sums in a row at most some dozens of numbers; see tests/compressor/kernels/test_sums.py.
TOLERANCE = 1e-5
# Feature maps of ResNet-50 at both ends, channels first and last, and the tokens of ViT-B/16: shape, channels, layout.
ACTIVATIONS = {
    "64x56x56": ((16, 64, 56, 56), 1, torch.contiguous_format),
    "512x7x7": ((16, 512, 7, 7), 1, torch.contiguous_format),
    "64x56x56 channels last": ((16, 64, 56, 56), 1, torch.channels_last),
    "197 tokens of 768": ((16, 197, 768), 2, torch.contiguous_format),
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--models", type=lambda text: text.split(","), default=MODELS, metavar="NAME,NAME")
    options.add_argument("--rounds", type=int, default=20, help="counted, of each copy together")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    options.add_argument("--memory", action="store_true", help="the peak of memory as well")
    options.add_argument("--quick", action="store_true", help="a smoke run: one small network, three rounds")
    options.add_argument("--json", type=Path, help="write the figures here")
    given = options.parse_args()
    if given.quick:
        given.models, given.rounds, given.no_compile = ["resnet18"], 3, True
    torch.set_num_threads(1)
    device = torch.device(given.device)
    types = [torch.float32, torch.bfloat16] if device.type == "cuda" else [torch.float32]
    print(f"ours is: {choose([torch.empty(1, device=device)]).backend}")
    print(f"torch.compile: {why_not_compiled(given.no_compile, device) or 'timed'}")
    if device.type != "cuda":
        print(
            "not run, for want of a GPU: the kernel, its Triton twin, bfloat16, the time of the device alone"
        )
    rows = []
    for name, dtype in itertools.product(given.models, types):
        rows += compare(name, dtype, device, given)
    samples: dict[str, Any] = {"networks": rows, "activations": activations(device, types, given)}
    figures = figures_of(rows, device)
    if given.memory:
        samples["memory"] = {what: fresh(what, given.device) for what in ("backward", "taylor", "l2")}
        figures["memory_ratio"] = samples["memory"]["taylor"] / samples["memory"]["backward"]
    samples["torch-pruning"] = metadata.version("torch-pruning") if util.find_spec("torch_pruning") else None
    samples["threads"] = torch.get_num_threads()
    write_figures(given.json, figures, samples)


def why_not_compiled(left_out: bool, device: torch.device) -> str | None:
    if left_out:
        return "not run, as asked for"
    if device.type != "cuda" and not compiler():
        return "not run, there is no C++ compiler"
    return None


def compiler() -> bool:
    from torch._inductor import cpp_builder

    try:
        return bool(cpp_builder.get_cpp_compiler())
    except Exception:
        return False


def compare(
    name: str, dtype: torch.dtype, device: torch.device, given: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row for each score: all samples of one network, and what follows from them."""
    torch.manual_seed(0)
    network, image = build(ModelSource(name)), torch.rand(1, 3, 224, 224)
    places = places_of(network, trace(network, image), device)
    copies = [copy_of(network, places, image, dtype, device) for _ in range(COPIES)]
    ceiling = torch.ones((1 << 30 if device.type == "cuda" else 1 << 26), device=device)
    rows = []
    for title, moment in SCORES.items():
        row: dict[str, Any] = {"network": name, "type": str(dtype).removeprefix("torch."), "score": title}
        row["error"] = error_of(copies[0], places.axes)
        if dtype == torch.float32 and copies[0].theirs:
            row["torch_pruning_differs"] = disagreement_with_torch_pruning(copies[0], moment)
        with_compiler = why_not_compiled(given.no_compile, device) is None
        contenders = {
            what: lambda n, work=work: work(copies[n % COPIES])
            for what, work in peers(places, moment, device, with_compiler).items()
            if what != "torch-pruning" or copies[0].theirs
        }
        contenders["read"] = lambda n: ceiling.sum()
        if device.type == "cuda":
            contenders["copy"] = lambda n: ceiling.clone()
        row["samples_s"], row["failures"] = rounds(contenders, given.rounds, device)
        row["bytes"] = copies[0].bytes * (1 if moment == "w2" else 2)
        ceiling_gb_s = ceiling.numel() * 4 / statistics.median(row["samples_s"]["read"]["cold"]) / 1e9
        row["ceiling_gb_s"] = ceiling_gb_s
        for state, seconds in row["samples_s"]["ours"].items():
            row[f"share_{state}"] = row["bytes"] / statistics.median(seconds) / 1e9 / ceiling_gb_s
        if device.type == "cuda":
            row["device_s"] = device_time(contenders["ours"]) / COPIES
            row["device_share"] = row["bytes"] / row["device_s"] / 1e9 / ceiling_gb_s
        show(row)
        rows.append(row)
    return rows


def error_of(each: Copy, axes: tuple[tuple[int, int], ...]) -> float:
    """The largest error of a sum, relative to the sum of magnitudes; an end of the run if it is not small."""
    found = channel_sums(each.weights, each.gradients, axes, MOMENTS).values
    worst = 0.0
    for (number, axis), sums in zip(axes, found, strict=True):
        w, g = each.weights[number], each.gradients[number]
        expected = reference.weight_sums(w, g, axis, MOMENTS)
        magnitude = reference.weight_sums(w.abs(), g.abs(), axis, MOMENTS).clamp_min(
            torch.finfo(torch.float64).tiny
        )
        worst = max(worst, ((sums - expected).abs() / magnitude).max().item())
    if not worst <= TOLERANCE:
        raise SystemExit(f"our sums differ from the formulas by {worst:.3g} of the sum of magnitudes")
    return worst


def rounds(
    contenders: dict[str, Callable[[int], Any]], count: int, device: torch.device
) -> tuple[dict[str, dict[str, list[float]]], dict[str, str]]:
    """Seconds of each, cold and warm, round by round; and why some were left out."""
    samples: dict[str, dict[str, list[float]]] = {name: {"cold": [], "warm": []} for name in contenders}
    failures: dict[str, str] = {}
    order = list(contenders)
    shuffled = random.Random(0)
    for number in range(COPIES + count):
        shuffled.shuffle(order)
        for name in order:
            if name in failures:
                continue
            try:
                for state in ("cold", "warm"):
                    seconds = timed(partial(contenders[name], number), device)
                    if number >= COPIES:
                        samples[name][state].append(seconds)
            except Exception as error:  # one contender of many: its reason is in the record
                failures[name] = repr(error)
                del samples[name]
    return samples, failures


def timed(work: Callable[[], Any], device: torch.device) -> float:
    gc.collect()
    if device.type != "cuda":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def device_time(work: Callable[[int], Any]) -> float:
    """Seconds of the device alone: the work on every copy, captured once, is played back without the host."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [work(number) for number in range(COPIES)]
    del kept
    return statistics.median(timed(graph.replay, torch.device("cuda")) for _ in range(50))


def activations(
    device: torch.device, types: list[torch.dtype], given: argparse.Namespace
) -> list[dict[str, Any]]:
    """Sums of activation times gradient for each sample and channel."""
    rows = []
    for (title, (shape, channel, layout)), dtype in itertools.product(ACTIVATIONS.items(), types):
        pairs = [tuple(feature_map(shape, dtype, device, layout) for _ in "ag") for _ in range(COPIES)]
        others = [dim for dim in range(1, len(shape)) if dim != channel]
        formula = "bcij,bcij->bc" if channel == 1 else "btc,btc->bc"

        def product_and_sum(a: Tensor, g: Tensor, others: list[int] = others) -> Tensor:
            return (a * g).sum(others)

        works = {
            "ours": lambda a, g, channel=channel: gate_sums(a, g, channel),
            "product and sum": product_and_sum,
            "einsum": lambda a, g, formula=formula: torch.einsum(formula, a, g),
        }
        if why_not_compiled(given.no_compile, device) is None:
            works["torch.compile"] = torch.compile(product_and_sum)
        expected, magnitude = (
            reference.gate_sums(*each, channel) for each in (pairs[0], [x.abs() for x in pairs[0]])
        )
        error = ((gate_sums(*pairs[0], channel) - expected).abs() / magnitude).max().item()
        if not error <= TOLERANCE:
            raise SystemExit(
                f"our gates of {title} differ from the formula by {error:.3g} of the sum of magnitudes"
            )
        contenders = {
            what: lambda n, work=work, pairs=pairs: work(*pairs[n % COPIES]) for what, work in works.items()
        }
        samples, failures = rounds(contenders, given.rounds, device)
        row = {"network": title, "type": str(dtype).removeprefix("torch."), "score": "gates", "error": error}
        rows.append(row | {"samples_s": samples, "failures": failures})
        show(rows[-1])
    return rows


def feature_map(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, layout: torch.memory_format
) -> Tensor:
    return torch.randn(shape, device=device).to(dtype).contiguous(memory_format=layout)


def show(row: dict[str, Any]) -> None:
    print(f"\n{row['network']}, {row['type']}, {row['score']}: error {row['error']:.1e}", end="")
    for key in (
        "torch_pruning_differs",
        "ceiling_gb_s",
        "share_cold",
        "share_warm",
        "device_s",
        "device_share",
    ):
        print(f", {key} {row[key]:.3g}" if key in row else "", end="")
    print(f"\n  {'ms: median (min-max)':<18}{'cold':>26}{'x ours':>8}{'warm':>26}{'x ours':>8}")
    for name, samples in row["samples_s"].items():
        times = "".join(
            f"{spread(each):>26}{times_ours(row, name, at):>8.1f}" for at, each in samples.items()
        )
        print(f"  {name:<18}{times}", flush=True)
    for name, reason in row["failures"].items():
        print(f"  {name:<18}failed: {reason}")


def spread(seconds: list[float]) -> str:
    low, middle, high = (1e3 * of(seconds) for of in (min, statistics.median, max))
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def times_ours(row: dict[str, Any], name: str, state: str) -> float:
    """How many times longer than ours, in the median of the rounds."""
    both = zip(row["samples_s"][name][state], row["samples_s"]["ours"][state], strict=True)
    return statistics.median(theirs / mine for theirs, mine in both)


def figures_of(rows: list[dict[str, Any]], device: torch.device) -> dict[str, float]:
    figures = {"largest_error": max(row["error"] for row in rows)}
    states = {"gpu": "cold"} if device.type == "cuda" else {"cpu": "warm", "cpu_cold": "cold"}
    for row, (kind, state) in itertools.product(rows, states.items()):
        if row["network"] != FIGURES_OF or row["type"] != "float32":
            continue
        if "torch-pruning" in row["samples_s"]:
            figures[f"{kind}_speedup_{row['score']}"] = times_ours(row, "torch-pruning", state)
        suffix = "" if row["score"] == "taylor" else f"_{row['score']}"
        figures[f"{kind}_bandwidth_share{suffix}"] = row.get("device_share", row[f"share_{state}"])
        if "device_s" in row:
            figures[f"gpu_device_us{suffix}"] = 1e6 * row["device_s"]
    return figures


def fresh(what: str, device: str) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(peak_of, (what, device))


def peak_of(what: str, device: str) -> int:
    """Bytes at most, above those of the network just loaded, of a forward and backward pass or of a score."""
    torch.manual_seed(0)
    network = build(ModelSource(FIGURES_OF)).to(device)
    images, labels = torch.rand(8, 3, 224, 224), torch.arange(8)
    graph = trace(network, images[:1].to(device))
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    else:
        MARK.write_text("5")  # the high-water mark is now what is held
    before = peak(device)
    if what == "backward":
        torch.nn.functional.cross_entropy(network.eval()(images.to(device)), labels.to(device)).backward()
    else:
        score(network, graph, what, [Batch(images, labels, labels)], device=device)
    return peak(device) - before


def peak(device: str) -> int:
    """Bytes: at most so far on a GPU; on a CPU the high-water mark, which ``peak_of`` sets back."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main()
