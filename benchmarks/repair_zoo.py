"""Is every network that can be cut also repaired, and do its outputs come nearer to its teacher's?

    python benchmarks/repair_zoo.py --json FILE --most 40e6

The networks of ``zoo.py`` with random weights, without half of their MACs, fitted on some images of noise. What they
give is compared with the teacher on other images, as cut and repaired. Each network has a process of its own and a
minute or two; what took longer is counted as not ready. What FILE holds already is not done again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
import warnings
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from record import keep, write_figures
from zoo import names_of

from compressor.errors import CompressError
from compressor.pruning.cutting import cut
from compressor.pruning.graph.recording.example import inputs_of
from compressor.pruning.graph.recording.operation import tensors_in
from compressor.pruning.graph.trace import trace
from compressor.pruning.repairing.fit_network import repaired
from compressor.pruning.widths.allocate import allocate
from compressor.recipe.budget import Budget
from tests.compressor.zoo import by_magnitude, network_named

FITTED, OTHER = 24, 8
LIMIT_S = 150
Row = dict[str, Any]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--json", type=Path, required=True)
    options.add_argument("--models", type=lambda text: text.split(","), metavar="NAME,NAME")
    options.add_argument("--set", default="all")
    options.add_argument("--most", type=float, default=40e6, help="parameters")
    given = options.parse_args()
    rows: dict[str, Row] = json.loads(given.json.read_text())["samples"] if given.json.exists() else {}
    for name in given.models or names_of(given.set):
        if name not in rows:
            rows[name] = apart(name, given.most)
            print(name, json.dumps(rows[name])[:200], flush=True)
            keep(given.json, figures(rows), rows)
    write_figures(given.json, figures(rows), rows)


def apart(name: str, most: float) -> Row:
    """The row of one network, from a process that may take too long or too much memory."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=_send, args=(writer, name, most))
    process.start()
    writer.close()
    row: Row = {"result": "not ready", "reason": f"not after {LIMIT_S} s"}
    try:
        if reader.poll(LIMIT_S):
            row = reader.recv()
    except EOFError:
        row["reason"] = "it was ended from outside"
    process.kill()
    process.join()
    return row


def _send(writer: Connection, name: str, most: float) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        writer.send(row_of(name, most))
    except CompressError as error:
        writer.send({"result": "refused", "reason": str(error)})
    except Exception as error:
        writer.send({"result": "wrong", "reason": f"{type(error).__name__}: {error}".splitlines()[0]})


def row_of(name: str, most: float) -> Row:
    """The row of one network."""
    network, inputs = network_named(name, samples=FITTED + OTHER)
    params = sum(each.numel() for each in network.parameters())
    if params > most:
        return {"result": "not tried", "params": params}
    graph = trace(network, tuple(each[:1] for each in inputs))
    plan = allocate(graph, by_magnitude(network, graph), Budget(0.5)).plan
    small = cut(network, plan)
    start = time.perf_counter()
    batches = [(at, inputs_of(tuple(each[at : at + 8] for each in inputs))) for at in range(0, FITTED, 8)]
    result = repaired(small, network, plan, batches)
    seconds = time.perf_counter() - start
    other = tuple(each[FITTED:] for each in inputs)
    expected, before, after = (outputs(each, other) for each in (network, small, result.network))
    errors = [apart_by(expected, before), apart_by(expected, after)]
    return {
        "result": "repaired" if result.helped else "left as cut",
        "params": params,
        "seconds": seconds,
        "fitted": len(result.layers),
        "left": dict(Counter(each.reason for each in result.left)),
        "error_on_fitted": [result.before, result.after],
        "error_on_others": errors,
        "nearer": errors[1] < errors[0],
        "check": result.check.passed,
    }


@torch.no_grad()
def outputs(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    return [each for each in tensors_in(network(*inputs)) if each.is_floating_point()]


def apart_by(expected: list[torch.Tensor], found: list[torch.Tensor]) -> float:
    """The squared error relative to the squares of what is expected, the mean over outputs."""
    shares = [
        float((one - other).square().sum() / one.square().sum().clamp_min(1e-30))
        for one, other in zip(expected, found, strict=True)
    ]
    return sum(shares) / len(shares)


def figures(rows: dict[str, Row]) -> dict[str, float]:
    """Counts: networks that were repaired, and those whose outputs on other images came nearer."""
    counts = Counter(row["result"] for row in rows.values())
    cut_ones = [row for row in rows.values() if "nearer" in row]
    return {
        **{f"networks_{name.replace(' ', '_')}": float(count) for name, count in sorted(counts.items())},
        "nearer": sum(row["nearer"] for row in cut_ones) / max(1, len(cut_ones)),
        "checks_passed": sum(row["check"] for row in cut_ones) / max(1, len(cut_ones)),
    }


if __name__ == "__main__":
    main()
