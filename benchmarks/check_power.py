"""How often `compress check` is right: real files, real fresh processes, slowdowns that are known.

    python benchmarks/check_power.py --json FILE             # 208 checks; the same command goes on with what is there
    python benchmarks/check_power.py --json FILE --only quiet --checks 10
    python benchmarks/check_power.py --json FILE --checks identical=50,5=20

A small convolutional network (about 2 ms on one thread) is compared with a copy of itself and with three files that
do the same and some products more, so that they take 2.5, 5 and 10 % longer. How much longer is found by a long
measurement of interleaved pairs in many processes, on a quiet machine, and stands beside the nominal number. Then come
checks by the default rule, in turn: every slowdown, on the quiet machine and while a second process keeps a core and
the memory busy. Every check starts processes of its own.

    false_alarms      FAIL where the slowdown is at most what is allowed: the copy and 2.5 %
    caught_5          FAIL at 5 %, on the quiet machine
    caught_10         FAIL at 10 %, of all checks that decided, quiet and loaded
    passed_wrongly    PASS at twice what is allowed or more: 5 and 10 %

Beside each check stands what other rules say of the very same samples, all processes pooled, by wall time as their
authors have it and by CPU time: pytest-benchmark's ``min:5%``, Mann and Whitney's test at 1 %, and a ratio of means
above 2.5 %.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from record import keep, write_figures

from compressor.commands.check.sides import Side, read_side
from compressor.commands.check.slowdown import Measured, measure_slowdown
from compressor.profiling import Rule, fingerprint

RULE = Rule()
SLOWDOWNS = {"identical": (0.0, 0.0), "2.5": (2.2, 2.5), "5": (5.0, 5.3), "10": (9.8, 10.3)}
"""Nominal per cent -> what the true one may be: 2.5 is not more than is allowed, 5 not less than twice that."""
LOADS = ("quiet", "loaded")
CHECKS = 26
WIDTH, LAYERS, SIDE = 64, 4, 24
FIRST, EXACT = Rule(looks=(6,), pairs=60), Rule(looks=(16,), pairs=120)
"""Of a search for the right file, and of the number that is believed."""
LOAD = "import numpy as np\na = np.ones(2**24)\nb = a.copy()\nwhile True:\n    np.add(a, b, out=a)\n    np.copyto(b, a)"

Samples = np.ndarray[Any, np.dtype[np.float64]]


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--checks", type=counts, default=counts(str(CHECKS)), help="of each kind: N, or NAME=N,NAME=N"
    )
    options.add_argument("--only", choices=LOADS, help="one of the two machines")
    options.add_argument("--json", type=Path, required=True, help="keep everything here, and go on from it")
    given = options.parse_args()
    loads = LOADS if given.only is None else (given.only,)
    known = kept(given.json)
    print(json.dumps(fingerprint(), indent=2))
    with tempfile.TemporaryDirectory() as folder:
        sides = {name: network(Path(folder) / f"{name}.onnx", 0) for name in ("base", "identical")}
        for name, (low, high) in SLOWDOWNS.items():
            path = Path(folder) / f"{name}.onnx"
            if name not in known["truth"]:
                known["truth"][name] = (
                    found(sides["base"], path, low, high) if high else exactly(sides["base"], sides[name], 0)
                )
                keep(given.json, {}, known)
            sides[name] = network(path, known["truth"][name]["rows"])
            print(f"{name:<10} truly {percent(known['truth'][name])}", flush=True)
        todo = list(left(given.checks, loads, known["checks"]))
        seconds = known["truth"]["identical"]["seconds_a_process"]
        guess = sum(seconds * (RULE.looks[-1] if name == "2.5" else RULE.looks[0]) for name, _ in todo)
        print(f"{len(todo)} checks to do, about {guess / 60:.0f} minutes", flush=True)
        for number, (name, load) in enumerate(todo, 1):
            row = check(sides["base"], sides[name], name, load)
            known["checks"].append(row)
            keep(given.json, figures(known), known)
            print(
                f"{number:>4}  {name:<10}{load:<8}{row['outcome']:<14}{row['launches']:>3} processes",
                flush=True,
            )
    table(known)
    write_figures(given.json, figures(known), known)


def counts(text: str) -> dict[str, int]:
    """``5`` is five of each kind."""
    if text.isdecimal():
        return dict.fromkeys(SLOWDOWNS, int(text))
    chosen = dict(each.split("=") for each in text.split(","))
    if unknown := chosen.keys() - SLOWDOWNS.keys():
        raise argparse.ArgumentTypeError(
            f"no slowdown is called {sorted(unknown)}; known: {', '.join(SLOWDOWNS)}"
        )
    return {name: int(number) for name, number in chosen.items()}


def kept(path: Path) -> dict[str, Any]:
    """What an earlier run has left; another machine must not go on with it."""
    if not path.exists():
        return {"truth": {}, "checks": []}
    record = json.loads(path.read_text())
    here = fingerprint()
    other = [
        name for name in ("cpu", "architecture", "packages") if record["environment"][name] != here[name]
    ]
    if other:
        sys.exit(f"{path} is of another machine ({', '.join(other)}): give another --json")
    return dict(record["samples"])


def left(
    wanted: Mapping[str, int], loads: tuple[str, ...], done: list[dict[str, Any]]
) -> Iterator[tuple[str, str]]:
    """What is still to be done, every kind in turn: a run that is stopped has something of each."""
    had = {
        (name, load): sum((row["name"], row["load"]) == (name, load) for row in done)
        for name in wanted
        for load in loads
    }
    for number in range(max(wanted.values())):
        for name, most in wanted.items():
            yield from ((name, load) for load in loads if had[name, load] <= number < most)


# ------------------------------------------------------------------ files whose slowdown is known


def network(path: Path, rows: int) -> Side:
    """Convolutions; and ``rows`` of a product that hangs on the input and leaves the output as it was."""
    rng = np.random.default_rng(0)
    held: list[onnx.TensorProto] = []

    def constant(name: str, *shape: int, scale: float = 0.05) -> str:
        held.append(numpy_helper.from_array((scale * rng.standard_normal(shape)).astype(np.float32), name))
        return name

    nodes, channels, last = [], 3, "x"
    for number in range(LAYERS):
        weight = constant(f"w{number}", WIDTH, channels, 3, 3)
        nodes.append(helper.make_node("Conv", [last, weight], [f"c{number}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        channels, last = WIDTH, f"r{number}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["out" if not rows else "flat"]))
    if rows:
        nodes += [
            helper.make_node("Mul", ["flat", constant("spread", rows, WIDTH)], ["many"]),
            helper.make_node("MatMul", ["many", constant("square", WIDTH, WIDTH)], ["product"]),
            helper.make_node("ReduceMax", ["product"], ["most"]),
            helper.make_node("Mul", ["most", constant("nearly", 1, scale=1e-12)], ["nothing"]),
            helper.make_node("Add", ["flat", "nothing"], ["out"]),
        ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, WIDTH])
    graph = helper.make_graph(nodes, "graph", [image], [out], held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return read_side(str(path))


def found(base: Side, path: Path, low: float, high: float) -> dict[str, Any]:
    """The number of rows for a slowdown between ``low`` and ``high`` per cent, by false position."""
    aim, rows = (low + high) / 2, 300
    for _ in range(5):  # a straight line through nothing is nearly right, so few steps do
        slower = 100 * (measured(base, network(path, rows), FIRST).regression.ratio - 1)
        rows = max(1, round(rows * aim / max(slower, 0.2)))
        if abs(slower - aim) < 0.1:
            break
    for _ in range(4):
        truth = exactly(base, network(path, rows), rows)
        if low <= truth["slowdown"] <= high:
            return truth
        rows = max(1, round(rows * aim / max(truth["slowdown"], 0.2)))
    sys.exit(
        f"no file is {aim:g} % slower than another here, the last was {percent(truth)}: is the machine quiet?"
    )


def exactly(base: Side, side: Side, rows: int) -> dict[str, Any]:
    """The slowdown in per cent, by many processes."""
    started = time.perf_counter()
    regression = measured(base, side, EXACT).regression
    bounds = {"slowdown": regression.ratio, "low": regression.low, "high": regression.high}
    started_s = time.perf_counter() - started
    return {
        "rows": rows,
        **{name: 100 * (ratio - 1) for name, ratio in bounds.items()},
        "seconds_a_process": started_s / regression.launches,
    }


def measured(base: Side, side: Side, rule: Rule) -> Measured:
    return measure_slowdown(base, side, rule)


def percent(truth: Mapping[str, float]) -> str:
    return f"{truth['slowdown']:+.2f} % (98 % interval {truth['low']:+.2f} to {truth['high']:+.2f})"


# ------------------------------------------------------------------ checks


def check(base: Side, side: Side, name: str, load: str) -> dict[str, Any]:
    """One check by the default rule, and what the others say of its samples."""
    started = time.perf_counter()
    with loaded() if load == "loaded" else nothing():
        result = measured(base, side, RULE)
    pooled = {
        clock: tuple(
            np.array([value for launch in result.launches for value in launch[which][clock]])
            for which in ("baseline", "candidate")
        )
        for clock in ("samples_ms", "cpu_ms")
    }
    regression = result.regression.to_dict()
    return {
        "name": name,
        "load": load,
        "seconds": time.perf_counter() - started,
        **{key: regression[key] for key in ("outcome", "ratio", "low", "high", "launches", "reasons")},
        "others": {
            f"{rule} ({'wall' if clock == 'samples_ms' else 'cpu'})": bool(fails(*pooled[clock]))
            for rule, fails in OTHERS.items()
            for clock in pooled
        },
        "conditions": [launch["conditions"] for launch in result.launches],
    }


@contextmanager
def loaded() -> Iterator[None]:
    """A second process on one core, with more numbers than any cache holds."""
    process = subprocess.Popen([sys.executable, "-c", LOAD])
    try:
        time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def nothing() -> Iterator[None]:
    yield


def least(before: Samples, after: Samples) -> bool:
    return after.min() > 1.05 * before.min()


def mean(before: Samples, after: Samples) -> bool:
    return after.mean() > (1 + RULE.tolerance) * before.mean()


def mann_whitney(before: Samples, after: Samples) -> bool:
    """One-sided at 1 %, by the normal approximation with ties, which is exact enough from 20 samples on."""
    _, places, ties = np.unique(np.concatenate([before, after]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[places]
    n, m = len(before), len(after)
    total = n + m
    u = ranks[n:].sum() - m * (m + 1) / 2
    variance = n * m / 12 * (total + 1 - (ties**3 - ties).sum() / (total * (total - 1)))
    return (
        bool(0.5 * math.erfc((u - n * m / 2 - 0.5) / math.sqrt(2 * variance)) < 0.01) if variance else False
    )


OTHERS: dict[str, Callable[[Samples, Samples], bool]] = {
    "min:5%": least,
    "Mann-Whitney": mann_whitney,
    "mean": mean,
}


# ------------------------------------------------------------------ figures


def figures(known: Mapping[str, Any]) -> dict[str, float]:
    """Shares; one that rests on no check is left out."""
    shares = {
        **shares_of(known["checks"], lambda row: str(row["outcome"])),
        "checks": float(len(known["checks"])),
    }
    for name in known["checks"][0]["others"] if known["checks"] else ():
        told = shares_of(known["checks"], lambda row, name=name: "FAIL" if row["others"][name] else "PASS")
        shares |= {
            f"{key}: {name}": value for key, value in told.items() if not key.startswith("inconclusive")
        }
    return shares


def shares_of(rows: list[dict[str, Any]], said: Callable[[dict[str, Any]], str]) -> dict[str, float]:
    """The figures by one rule's outcomes."""
    at = {
        (name, load): [said(row) for row in rows if (row["name"], row["load"]) == (name, load)]
        for name in SLOWDOWNS
        for load in LOADS
    }
    both = {name: at[name, "quiet"] + at[name, "loaded"] for name in SLOWDOWNS}
    asked = {
        "false_alarms": ("FAIL", both["identical"] + both["2.5"]),
        "false_alarms_identical": ("FAIL", both["identical"]),
        "caught_5": ("FAIL", at["5", "quiet"]),
        "caught_10": ("FAIL", [each for each in both["10"] if each != "INCONCLUSIVE"]),
        "passed_wrongly": ("PASS", both["5"] + both["10"]),
    } | {f"inconclusive_{name}_{load}": ("INCONCLUSIVE", outcomes) for (name, load), outcomes in at.items()}
    return {key: outcomes.count(word) / len(outcomes) for key, (word, outcomes) in asked.items() if outcomes}


def table(known: Mapping[str, Any]) -> None:
    """Every kind of check: its outcomes, how many processes it took, and how slow the file was in just these checks."""
    columns = (("true %", 7), ("here %", 8), ("FAIL", 6), ("PASS", 6), ("?", 5), ("processes", 11))
    titles = "".join(f"{title:>{room}}" for title, room in columns)
    print(f"{'slowdown':<10}{'machine':<9}{titles}  others that FAIL")
    for name in SLOWDOWNS:
        for load in LOADS:
            rows = [row for row in known["checks"] if (row["name"], row["load"]) == (name, load)]
            if not rows:
                continue
            outcomes = [row["outcome"] for row in rows]
            said = "".join(
                f"{outcomes.count(word):>{room}}"
                for word, room in (("FAIL", 6), ("PASS", 6), ("INCONCLUSIVE", 5))
            )
            others = ", ".join(
                f"{rule} {sum(row['others'][rule] for row in rows)}" for rule in rows[0]["others"]
            )
            truly = known["truth"][name]["slowdown"]
            here = 100 * (np.mean([row["ratio"] for row in rows]) - 1)
            processes = np.mean([row["launches"] for row in rows])
            print(f"{name:<10}{load:<9}{truly:>7.2f}{here:>8.2f}{said}{processes:>11.1f}  {others}")


if __name__ == "__main__":
    main()
