"""Which published networks can be cut, and is every cut exact? One row a network.

    python benchmarks/zoo.py --json FILE --table docs/zoo.md
    python benchmarks/zoo.py --models torchvision:resnet50,timm:res2next50 --ratios 0.5
    pip install --no-deps torch-pruning && python benchmarks/zoo.py --torch-pruning --add --json FILE

Every network runs in a process of its own. It is traced; then, for each share of MACs to remove and for scores by
lot and by magnitude (``l2``), widths are chosen, the network is cut, and everything in ``tests/compressor/zoo.py``
is asked of the student. With ``--add`` only what FILE lacks is done, and what was wrong or not run.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import signal
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any

os.environ.setdefault("TIMM_FUSED_ATTN", "0")  # timm reads it when it is imported
sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests are no installed package

import numpy as np
import torch
from record import write_figures
from torch import nn
from torchvision import models
from zoo_torch_pruning import torch_pruning

from compressor.errors import CompressError
from compressor.profiling import fingerprint
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.graph.cost import costs_of, full_widths
from compressor.pruning.graph.trace import trace
from tests.compressor.zoo import Images, Outcome, by_lot, by_magnitude, cut_and_check, first, network_named

BIG = 100e6  # parameters: from here on one cut only, compared on one sample
COSTLY = 10e9  # MACs, on the images that are used here: the same
LIMIT_S = 900  # for one network
BYTES = (
    22  # a parameter: the teacher and its copy in float64, the student in both, and something to work with
)
SETS = ("torchvision", "timm", "all")
SMALL = """atto femto pico zepto nano xxtiny xxt xx_small xxs xtiny xt_ x_small xs tiny _ti mini micro small _s _0 0 b0
18 26 _t lite base""".split()  # how timm calls its smaller models, the smallest first
COLUMNS = """network | inputs | result | cuts | groups | cuttable | form at 50 % | relative error | trace ms | cut ms
 | torch-pruning""".replace("\n", "")
OTHERS = ("timm", "torch-pruning")
Row = dict[str, Any]
HEAD = """# The zoo

Written by `{command}`; do not edit.

Each row is one published architecture with random weights, nothing of it zero, cut several times: 30, 50 and 70 % of
the MACs, each with scores by lot and by magnitude. *proven*: in float64 every cut network equals the teacher whose
removed channels are silenced (relative error at most 1e-9, one image and three), its MACs and parameters are those
planned, its tensors have the planned shapes, and gradients reach all that they reached in the teacher. *refused*: an
error with a reason, and no cut network. *wrong*: a cut network that failed any of this, or a crash.

*cuts*: made, of those tried; the others ask for more than can go. Networks above 100 M parameters or 10 GMACs are
cut once and compared on one image; of a slow network no cut was begun after {enough:g} s, so that not all had
theirs: {counts}. *cuttable*: the share of MACs that goes when every group keeps one unit. *form at 50 %*:
`module`, the network's own class, or `program`, rewritten operators. Times are of one run after a first, wall
clock; cuts at the median. Detectors are taken up to their dense predictions, R-CNNs with pooled regions as further
inputs; RAFT makes two updates. Of timm, the smallest model that was found in each of its modules.

*torch-pruning*: half of every layer by magnitude, with hints about attention heads and with its LayerNorm pruner
mended (it uses kept indices unsorted), judged by the same proof; *not compared* where it couples other channels than
we do, so that the silenced teacher is not defined; it has a minute; where the cell is empty it was not run.

"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--models", type=lambda text: text.split(","), metavar="NAME,NAME")
    options.add_argument("--set", choices=SETS, default="all")
    options.add_argument(
        "--ratios", type=lambda text: [float(one) for one in text.split(",")], default=[0.3, 0.5, 0.7]
    )
    options.add_argument("--torch-pruning", action="store_true", help="its result beside ours")
    options.add_argument(
        "--enough", type=float, default=60, help="seconds after which no cut of a network is begun"
    )
    options.add_argument("--jobs", type=int, default=1, help="networks at a time")
    options.add_argument("--add", action="store_true", help="do what the file of --json lacks")
    options.add_argument("--json", type=Path, help="write the figures here")
    options.add_argument("--table", type=Path, help="write the table here")
    given = options.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows: dict[str, Row] = {}
    if given.add and given.json and given.json.exists():
        rows = json.loads(given.json.read_text())["samples"]["networks"]
    signal.signal(signal.SIGTERM, _stop)
    waiting = ThreadPoolExecutor(given.jobs)
    try:
        names = given.models or names_of(given.set)
        for name, row in waiting.map(lambda name: apart(name, rows.get(name), given), names):
            rows[name] = row
            print(f"{line(name, row)} {row.get('reason', '')}", flush=True)
    finally:  # what was measured is kept when somebody stops the rest
        waiting.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            child.kill()
        rows = dict(sorted(rows.items()))
        packages = {one.name: one.version for one in metadata.distributions() if one.name in OTHERS}
        write_figures(given.json, figures(rows), {"packages": packages, "networks": rows})
        if given.table:
            given.table.write_text(document(rows, packages, given.enough))


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what comes again must not disturb the writing
    sys.exit("stopped")


def names_of(which: str) -> list[str]:
    """The networks of a set, small ones first."""
    sized: list[tuple[float, str]] = []
    if which != "timm":
        for module in (models, models.segmentation, models.detection, models.optical_flow, models.video):
            for name in models.list_models(module=module):
                weights = list(models.get_model_weights(name))
                sized.append((weights[0].meta["num_params"] if weights else BIG, f"torchvision:{name}"))
    if which != "torchvision":
        if util.find_spec("timm") is None:
            sys.exit("the set needs the package timm\nhint: --set torchvision")
        sized += smallest_of_families()
    return [name for _, name in sorted(sized)]


def smallest_of_families() -> Iterator[tuple[float, str]]:
    """Of every module of timm the smallest of the models whose names promise to be small."""
    timm = import_module("timm")
    for family in timm.list_modules():
        named = timm.list_models(module=family)
        published = [name for name in named if not name.startswith("test_")] or named
        sizes = []
        for name in sorted(published, key=_promise)[:4]:
            try:
                with torch.device("meta"):
                    network = timm.create_model(name)
            except Exception:  # whatever it needs; if no other can be built, its row will say so
                sizes.append((math.inf, f"timm:{name}"))
                continue
            sizes.append((sum(each.numel() for each in network.parameters()), f"timm:{name}"))
            if sizes[-1][0] < BIG / 10:
                break
        yield min(sizes)


def _promise(name: str) -> tuple[int, int]:
    return next((place for place, word in enumerate(SMALL) if word in name), len(SMALL)), len(name)


def apart(name: str, known: Row | None, given: argparse.Namespace) -> tuple[str, Row]:
    """The row of a network, made in a process that may run out of time or memory without harm to the others."""
    context = multiprocessing.get_context(
        "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    )
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(writer, name, known, given))
    process.start()
    writer.close()
    row: Row = {"result": "not run", "reason": "it was ended from outside, probably for its memory"}
    deadline = time.monotonic() + LIMIT_S
    try:
        while reader.poll(max(0.0, deadline - time.monotonic())):
            row = reader.recv()  # ours first, then again with theirs
    except EOFError:
        pass
    else:
        process.kill()
        if "params" not in row:
            row["reason"] = f"not ready after {LIMIT_S} s"
    process.join()
    return name, row


def _send(writer: Any, name: str, known: Row | None, given: argparse.Namespace) -> None:
    if (adjust := Path("/proc/self/oom_score_adj")).exists():
        adjust.write_text("1000")  # if memory runs out, this is the process to end
    torch.set_num_threads(1)
    done = known is not None and known["result"] in ("proven", "refused")
    row = known if done else row_of(name, given)
    writer.send(row)
    if given.torch_pruning and "torch_pruning" not in row and row["result"] != "not run":
        row["torch_pruning"] = torch_pruning(name)
        writer.send(row)


def row_of(name: str, given: argparse.Namespace) -> Row:
    """Everything about one network."""
    row: Row = {"result": "wrong"}
    try:
        network, inputs = network_named(name, samples=3)
        row["inputs"] = [list(each.shape[1:]) for each in inputs]
        row["params"] = sum(each.numel() for each in network.parameters())
        if (short := shortage(row["params"])) is not None:
            return row | {"result": "not run", "reason": short}
        trace(network, first(inputs, 1))  # the first one warms up
        start = time.perf_counter()
        graph = trace(network, first(inputs, 1))
        row["trace_ms"] = 1e3 * (time.perf_counter() - start)
        row["groups"] = len(graph.groups)
        row["without_rule"] = sorted({item.operator for item in graph.unsupported})
        row["macs"], row["cuttable"] = macs_and_cuttable(graph)
        whole = row["params"] < BIG and row["macs"] < COSTLY
        row["cuts"] = list(cuts(network, graph, inputs if whole else first(inputs, 1), given, whole))
    except CompressError as error:
        return row | {"result": "refused", "reason": str(error)}
    except Exception as error:
        return row | {"reason": f"{type(error).__name__}: {error}".splitlines()[0]}
    faults = [fault for cut in row["cuts"] for fault in cut["faults"]]
    refusals = [cut["refused"] for cut in row["cuts"] if cut["refused"] is not None]
    if faults:
        return row | {"reason": faults[0]}
    if refusals or not made(row):
        return row | {"result": "refused", "reason": (refusals or [row["cuts"][0]["out_of_reach"]])[0]}
    return row | {"result": "proven"}


def made(row: Row) -> list[dict[str, Any]]:
    """The cuts that gave a network."""
    return [cut for cut in row.get("cuts", ()) if cut["out_of_reach"] is None and cut["refused"] is None]


def cuts(
    network: nn.Module, graph: ChannelGraph, inputs: Images, given: argparse.Namespace, whole: bool
) -> Iterator[dict[str, Any]]:
    """The cuts of one network: a half by lot first; then shares and scores in turn, while there is time."""
    scores = {"by lot": by_lot(graph)}
    if whole:
        scores["l2"] = by_magnitude(network, graph)
    kinds = list(scores)
    near = sorted(given.ratios, key=lambda remove: abs(remove - 0.5))[: None if whole else 1]
    start = time.monotonic()
    for turn in range(len(kinds)):
        for number, remove in enumerate(near):
            if time.monotonic() - start > given.enough:
                return
            kind = kinds[(turn + number) % len(kinds)]
            batches = (1, 3) if whole else (1,)
            try:
                outcome = cut_and_check(network, graph, scores[kind], remove, inputs, batches)
            except CompressError as error:
                outcome = Outcome(refused=str(error))
            yield {"remove": remove, "scores": kind, **vars(outcome)}


def macs_and_cuttable(graph: ChannelGraph) -> tuple[int, float]:
    """The MACs, and the share of them that goes when every group keeps a single unit."""
    cost, full = costs_of(graph)["macs"], full_widths(graph)
    return cost.of(full), 1 - cost.of(np.ones_like(full)) / cost.of(full)


def shortage(parameters: int) -> str | None:
    memory = Path("/proc/meminfo")
    if not memory.exists():
        return None
    free = int(memory.read_text().split("MemAvailable:")[1].split()[0]) / 2**20
    needed = parameters * BYTES / 2**30
    return None if needed < free else f"needs {needed:.0f} GiB of memory, {free:.0f} are free"


def figures(rows: dict[str, Row]) -> dict[str, float]:
    results = [row["result"] for row in rows.values()]
    cut_networks = [cut for row in rows.values() for cut in made(row)]
    theirs = [row["torch_pruning"] for row in rows.values() if "torch_pruning" in row]
    found: dict[str, float] = {"tried": len(rows)}
    for result in ("proven", "refused", "wrong", "not run"):
        found[result.replace(" ", "_")] = results.count(result)
    found["cuts"] = len(cut_networks)
    found["max_relative_error"] = max((cut["relative_error"] for cut in cut_networks), default=0.0)
    if theirs:
        for result in ("exact", "runs, differs", "runs, not compared", "fails"):
            key = "torch_pruning_" + result.replace(", ", "_").replace(" ", "_")
            found[key] = sum(text.startswith(result) for text in theirs)
    return found


def line(name: str, row: Row) -> str:
    """One row of the table."""
    inputs = " ".join("×".join(map(str, shape)) for shape in row.get("inputs", ()))
    head = f"{name} | {inputs} | {row['result']}"
    if not (cut_networks := made(row)):
        return f"| {head} {'| ' * 9}|"
    half = next((cut["form"] for cut in cut_networks if cut["remove"] == 0.5), "")
    error = max(cut["relative_error"] for cut in cut_networks)
    cut_ms = statistics.median(cut["cut_ms"] for cut in cut_networks)
    widths = f"{len(cut_networks)} of {len(row['cuts'])} | {row['groups']} | {row['cuttable']:.0%} | {half}"
    times = f"{row['trace_ms']:.0f} | {cut_ms:.0f}"
    return f"| {head} | {widths} | {error:.0e} | {times} | {row.get('torch_pruning', '')} |"


def document(rows: dict[str, Row], packages: dict[str, str], enough: float) -> str:
    """The table with what a reader must know of it."""
    device = fingerprint()
    versions = {**{key: value for key, value in device["packages"].items() if "torch" in key}, **packages}
    notes = []
    for name, row in rows.items():
        missed = [cut["out_of_reach"] for cut in row.get("cuts", ()) if cut["out_of_reach"] is not None]
        said = [*([f"{row['result']}: {row['reason']}"] if "reason" in row else []), *sorted(set(missed))]
        if row.get("without_rule"):
            said.append(f"left whole, no rule: {', '.join(row['without_rule'])}")
        notes += [f"- `{name}`: {text}" for text in dict.fromkeys(said)]
    table = [
        f"| {COLUMNS} |",
        "|---" * (COLUMNS.count("|") + 1) + "|",
        *(line(*item) for item in rows.items()),
    ]
    numbers = ", ".join(f"{key.replace('_', ' ')} {value:.3g}" for key, value in figures(rows).items())
    where = (
        f"Measured on {device['cpu']}, {device['usable_cores']} cores, one thread, Python {device['python']}, "
        + ", ".join(f"{key} {value}" for key, value in versions.items())
        + f", {time.strftime('%Y-%m-%d', time.gmtime())}."
    )
    tried = Counter(len(row.get("cuts", ())) for row in rows.values())
    counts = ", ".join(f"{number} networks with {cuts}" for cuts, number in sorted(tried.items()))
    head = HEAD.format(command=" ".join(["python", *sys.argv]), enough=enough, counts=counts)
    parts = [
        head + where,
        f"**{numbers}.**",
        "\n".join(table),
        "## What did not go",
        "\n".join(notes) or "Nothing.",
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
