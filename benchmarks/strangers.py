"""Networks of other people, built from their configurations: is every cut right, and is every refusal clear?

    pip install transformers segmentation-models-pytorch && python benchmarks/strangers.py --json FILE
    python benchmarks/strangers.py --only hf:swin,smp:Unet

Four sets: small networks of Hugging Face's ``transformers``, segmentation_models_pytorch, whole networks of
torchvision (the dense part of detectors), and networks made to be difficult (``difficult_networks.py``). Each runs in
a process of its own: it is traced, half of its MACs are removed by the magnitude of the weights, and the cut is
compared with the silenced teacher in float64. A result is

    proven   the cut network equals the silenced teacher
    whole    traced, but nothing can be removed
    refused  an error of ours with a reason
    wrong    the comparison failed
    crashed  any other exception, or more than the time allowed

Of what is proven four things more are asked: it saves and loads bit for bit, its ONNX file equals it with all its
outputs, its gradients are those of the silenced teacher, and ``torch.export`` takes it. What FILE holds already is
not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from record import keep, write_figures
from strangers_sources import SOURCES, Stranger, named
from torch import nn

import compressor
from compressor.errors import CompressError
from compressor.models.copying import in_float64, named_tensors
from compressor.pruning.cutting.proof import check_cut
from compressor.pruning.cutting.silenced import silenced
from compressor.pruning.graph.labelled import walk
from compressor.pruning.graph.recording.example import inputs_of
from compressor.pruning.graph.recording.operation import tensors_in
from compressor.pruning.graph.recording.replay import InFloat64

LIMIT_S = 300
STEP = 1e-6
RESULTS = ("proven", "whole", "refused", "wrong", "crashed")


def judged(name: str) -> dict[str, Any]:
    """The row of one network."""
    row: dict[str, Any] = {"name": name}
    started = time.perf_counter()
    try:
        stranger = named(name)
    except Exception as error:
        return {
            **row,
            "result": "not built",
            "reason": f"{type(error).__name__}: {str(error).splitlines()[0]}",
        }
    try:
        row.update(_cut(stranger))
    except CompressError as error:
        row.update(result="refused", reason=str(error), hint=error.hint)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        row.update(result="crashed", reason=f"{type(error).__name__}: {str(error)[:300]} ({where})")
    return {**row, "seconds": round(time.perf_counter() - started, 1)}


def _cut(stranger: Stranger) -> dict[str, Any]:
    network, inputs = stranger.network, stranger.inputs
    graph = compressor.trace(network, inputs)
    found: dict[str, Any] = {
        "groups": len(graph.groups),
        "without_rule": sorted({u.operator for u in graph.unsupported}),
    }
    if not graph.groups:
        reasons = Counter(group.frozen for group in graph.frozen)
        return {**found, "result": "whole", "reason": str(reasons.most_common(3))}
    scores = compressor.score(network, graph, "l2")
    for share in (0.5, 0.25, 0.1, 0.02):
        try:
            plan = compressor.plan(graph, scores, remove=share, granule=1)
            break
        except CompressError as error:
            found["reason"] = str(error)
    else:
        return {**found, "result": "whole"}
    student = compressor.cut(network, plan)
    checks = check_cut(network, student, plan, inputs)
    failed = [f"{check.name}: {check.detail}" for check in checks if not check.passed]
    found.update(removed=round(plan.removed("macs"), 3), form=type(student).__name__)
    if failed:
        return {**found, "result": "wrong", "reason": "; ".join(failed)}
    for what, test in FURTHER.items():
        try:
            found[what] = test(stranger, plan, student)
        except Exception as error:
            found[what] = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
    return {**found, "result": "proven"}


def _saved(stranger: Stranger, plan: Any, student: nn.Module) -> bool | str:
    """Save, load into the teacher's class, compare every bit."""
    with tempfile.TemporaryDirectory() as folder:
        compressor.save(
            student,
            folder,
            plan=plan,
            model="strangers_sources:latest",
            image=inputs_of(stranger.inputs).tensors[0],
        )
        loaded = compressor.apply(stranger.network, folder)
    one, other = named_tensors(student), named_tensors(loaded)
    return one.keys() == other.keys() and all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def _exported(stranger: Stranger, plan: Any, student: nn.Module) -> bool:
    """The ONNX file is written and proven, with all its outputs."""
    with tempfile.TemporaryDirectory() as folder:
        compressor.export(student, stranger.inputs, Path(folder) / "student.onnx")
    return True


def _gradients(stranger: Stranger, plan: Any, student: nn.Module) -> bool | str:
    """The student's gradient along a random direction, against the slope of the silenced teacher, in float64."""
    teacher, small = in_float64(stranger.network), in_float64(student)
    inputs = inputs_of(stranger.inputs).map(lambda t: t.double() if t.is_floating_point() else t)
    with InFloat64():
        walked = walk(teacher, inputs, whole_heads=plan.whole_heads)
    weights, random = named_tensors(teacher), torch.Generator().manual_seed(0)
    learned = {name for name, tensor in teacher.named_parameters() if tensor.is_floating_point()}
    direction = {
        name: torch.randn(weights[name].shape, generator=random, dtype=torch.float64)
        * weights[name].abs().mean()
        for name in learned
    }

    def loss(by: float, slices: Any) -> float:
        moved = {name: t + by * direction[name] if name in learned else t for name, t in weights.items()}
        with torch.no_grad(), InFloat64():
            return float(_loss(silenced(walked, slices, moved, inputs.tensors)))

    def slope(slices: Any) -> float:
        return (loss(STEP, slices) - loss(-STEP, slices)) / (2 * STEP)

    found, expected = _along(small, inputs, direction, plan.slices), slope(plan.slices)
    if _near(found, expected):
        return True
    whole, whole_slope = _along(teacher, inputs, direction, {}), slope({})
    if not _near(whole, whole_slope):  # it stops gradients somewhere: no finite difference can tell
        return f"the uncut network's own gradient is {whole:.6g}, its slope {whole_slope:.6g}"
    return f"the gradient along a direction is {found:.6g}, the slope of the silenced teacher {expected:.6g}"


def _along(network: nn.Module, inputs: Any, direction: Any, slices: Any) -> float:
    """The derivative of the loss along the direction, by automatic differentiation."""
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    with InFloat64():
        _loss(tensors_in(network(*inputs.args, **inputs.kwargs))).backward()
    found = 0.0
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            along = direction[name]
            for axis, kept in slices.get(name, {}).items():
                along = along.index_select(axis, torch.tensor(kept))
            found += float((parameter.grad * along).sum())
    return found


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-3 * max(abs(one), abs(other), 1e-9)


def _loss(outputs: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([out.square().mean() for out in outputs if out.is_floating_point()]).sum()


def _torch_export(stranger: Stranger, plan: Any, student: nn.Module) -> bool:
    """``torch.export`` takes the student."""
    inputs = inputs_of(stranger.inputs)
    torch.export.export(student.eval(), tuple(inputs.args), inputs.kwargs, strict=False)
    return True


FURTHER: dict[str, Callable[[Stranger, Any, nn.Module], bool | str]] = {
    "saved": _saved,
    "exported": _exported,
    "gradients": _gradients,
    "torch_export": _torch_export,
}


def in_own_process(name: str) -> dict[str, Any]:
    """The row of one network, whatever becomes of its process."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", name]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"name": name, "result": "crashed", "reason": f"more than {LIMIT_S} s"}
    line = ran.stdout.strip().splitlines()[-1:] or [""]
    try:
        return dict(json.loads(line[0]))
    except json.JSONDecodeError:
        return {
            "name": name,
            "result": "crashed",
            "reason": ran.stderr.strip()[-300:] or f"exit {ran.returncode}",
        }


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts, together and of every set."""

    def counts(of: list[dict[str, Any]]) -> dict[str, int]:
        results = Counter(row["result"] for row in of)
        tried = sum(results[each] for each in RESULTS)
        further = {what: sum(row.get(what) is True for row in of) for what in FURTHER}
        return {
            "tried": tried,
            **{each: results[each] for each in RESULTS},
            **further,
            "not_built": results["not built"],
        }

    sets = {
        source: counts([row for row in rows if row["name"].startswith(f"{source}:")]) for source in SOURCES
    }
    return {
        **counts(rows),
        **{f"{source}_{key}": value for source, each in sets.items() for key, value in each.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="", help="names, or beginnings of names, with commas")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--one", default="")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.one:
        warnings.simplefilter("ignore")
        print(json.dumps(judged(given.one)))
        return
    wanted = tuple(given.only.split(",")) if given.only else ("",)
    names = [
        f"{source}:{name}"
        for source, each in SOURCES.items()
        for name in each
        if f"{source}:{name}".startswith(wanted)
    ]
    rows: list[dict[str, Any]] = []
    if given.json and given.json.exists():
        rows = [row for row in json.loads(given.json.read_text())["samples"] if row["result"] != "not built"]
    known = {row["name"] for row in rows}
    with ThreadPoolExecutor(given.jobs) as pool:
        for row in pool.map(in_own_process, [name for name in names if name not in known]):
            rows.append(row)
            if given.json:
                keep(given.json, figures(rows), rows)
            more = " ".join(f"{what}={row[what]}" for what in FURTHER if row.get(what, True) is not True)
            print(f"{row['name']:<40} {row['result']:<10} {row.get('reason', '')[:160]} {more}", flush=True)
    print(json.dumps(figures(rows), indent=1))
    if given.json:
        write_figures(given.json, figures(rows), rows)


if __name__ == "__main__":
    main()
