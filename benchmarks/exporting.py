"""Does every network export, is each file the network, do engines build, is int8 fast, do broken files hurt nobody?

    python benchmarks/exporting.py --json benchmarks/results/export-MACHINE-DATE.json
    python benchmarks/exporting.py --only engines,int8 --json FILE      # parts of it; what the file has is kept

Networks have random weights of a fixed seed, and images are 224 × 224 (or the network's own size). `models` needs
about 40 minutes on one core; `--networks` names some. Parts run one after the other:

models    every torchvision classification network and its 50 % cut: export, checker, parity at batch 1 and 8
engines   TensorRT-RTX, without a GPU: FP32, FP16 and INT8 of seven networks
int8      the built-in pair in a run folder (`--run`): FP32 and INT8, interleaved, one thread; top-1 of each
resnet56  the same of ResNet-56 on CIFAR-10 (`--data`, with cifar10/ and the weights), of a student with 30 % of its
          MACs, and of one whose widths are chosen by the time in INT8
memory    the most memory of exporting a network of 1 GB
fuzz      5,000 mutated files
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests are no installed package

import click
import numpy as np
import torch
from cifar import cifar10, resnet56
from latency_int8 import chosen
from record import keep, write_figures
from torch import nn
from torchvision import models

from compressor import api
from compressor.artifacts.write import calibration_images
from compressor.data import load_data
from compressor.data.in_memory import crop_and_flip
from compressor.data.split import Data
from compressor.errors import ExportError
from compressor.exporting import NEEDS, Asked, Session, compare, derived, open_session, to_onnx
from compressor.recipe import read_recipe
from compressor.recipe.budget import Budget
from compressor.training import Schedule, accuracy
from tests.compressor.zoo import by_lot
from tests.export.fuzz import PLACE, fuzz_onnx, fuzz_sidecars
from tests.export.networks import DepthwiseWithGate, Residual, settled

SIZES = {"inception_v3": 299}
ENGINES = "resnet50 mobilenet_v2 efficientnet_b0 vgg16_bn convnext_tiny vit_b_16".split()
TOO_LARGE = {"regnet_y_128gf", "vit_h_14"}
"""Above half a billion parameters; they need more memory than a small machine has."""
PARTS = ("models", "engines", "int8", "resnet56", "memory", "fuzz")

Row = dict[str, Any]


def network_named(name: str) -> nn.Module:
    torch.manual_seed(0)
    extra = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, weights=None, **extra).eval()
    # Born as zero, the last layer of a transformer would make every comparison pass.
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return network


def image_for(name: str, count: int = 1) -> torch.Tensor:
    side = SIZES.get(name, 224)
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def exported_row(network: nn.Module, name: str, path: Path) -> Row:
    """One network: whether it was written, and how far the file is off."""
    started = time.perf_counter()
    try:
        artifact = to_onnx(network, image_for(name), path)
    except ExportError as error:
        return {"exported": False, "reason": str(error)}
    row: Row = {"exported": True, "seconds": round(time.perf_counter() - started, 2), "bytes": artifact.bytes}
    row |= {"opset": artifact.opset, "notes": list(artifact.notes)}
    session = open_session(path, threads=1)
    for batch in (1, 8):
        verdict = compare(
            f"batch {batch}",
            lambda images: network(torch.from_numpy(images)).numpy(),
            lambda images: session(input=images)["logits"],
            [image_for(name, batch).numpy()],
        )
        scale = verdict.tolerance / 1e-4
        row[f"batch_{batch}"] = {"passed": verdict.passed, "relative_error": verdict.max_abs_error / scale}
    return row


def cut_of(network: nn.Module, name: str) -> nn.Module:
    graph = api.trace(network, image_for(name))
    return api.cut(network, api.plan(graph, by_lot(graph), remove=0.5))


@torch.no_grad()
def part_models(names: list[str], known: dict[str, Row]) -> dict[str, Row]:
    rows = dict(known)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            for what in ("whole", "cut"):
                key = f"{name}, {what}"
                if key in rows:
                    continue
                network = network_named(name)
                try:
                    with torch.enable_grad():
                        network = cut_of(network, name) if what == "cut" else network
                except Exception as error:
                    rows[key] = {"exported": False, "reason": f"not cut: {str(error).splitlines()[0]}"}
                else:
                    rows[key] = exported_row(network, name, Path(folder) / "n.onnx")
                print(key, rows[key], flush=True)
                yield_to(rows)
    return rows


PARTIAL: list[tuple[Path, dict[str, Any]]] = []
"""Where samples are kept while a long part runs."""


def yield_to(rows: dict[str, Row]) -> None:
    for path, samples in PARTIAL:
        keep(path, figures_of(samples | {"models": rows}), samples | {"models": rows})


def part_engines(run: Path | None, known: dict[str, Row]) -> dict[str, Row]:
    if NEEDS["tensorrt"].missing:
        raise click.UsageError("engines need tensorrt or tensorrt-rtx")
    rows = dict(known)
    names = [*ENGINES, *(["student"] if run else [])]
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            source = run / "student.onnx" if name == "student" and run else Path(folder) / "n.onnx"
            if name == "student":
                side = open_session(source).inputs[0].shape[1:]
                images = torch.randn(8, *side, generator=torch.Generator().manual_seed(0))
            else:
                images = image_for(name, 8)
                to_onnx(network_named(name), images[:1], source)
            for precision in ("tensorrt", "tensorrt-fp16", "tensorrt-int8"):
                started = time.perf_counter()
                try:
                    asked = Asked((images.numpy(),))
                    artifact = derived(precision, source, Path(folder) / "n.engine", asked)
                    row: Row = {"built": True, "bytes": artifact.bytes, "notes": list(artifact.notes)}
                except ExportError as error:
                    row = {"built": False, "reason": str(error)}
                row["seconds"] = round(time.perf_counter() - started, 2)
                rows[f"{name}, {precision}"] = row
                print(name, precision, row, flush=True)
    return rows


def part_int8(run: Path, rounds: int) -> Row:
    recipe = read_recipe(run / "recipe.toml")
    data = load_data(recipe.data, recipe.seed)
    return int8_beside_float({who: run / f"{who}.onnx" for who in ("teacher", "student")}, data, rounds)


def part_resnet56(folder: Path, rounds: int) -> Row:
    """The trained network on CIFAR-10, and two students that were taught for 312 steps: one has 30 % of its MACs, the
    other was to lose a fifth of the time in INT8."""
    data, teacher = cifar10(folder, 2000, 1000, crop_and_flip), resnet56(folder)
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # the file's, a plain average over all time, would lag behind
    image = torch.zeros(1, *data.shape)
    graph = api.trace(teacher, image)
    scores = api.score(teacher, graph, "lamp")
    schedule = Schedule(epochs=2, batch=128, learning_rate=0.02, warmup_epochs=0, test_every=2)
    with tempfile.TemporaryDirectory() as name:
        budget = Budget(0.2, "latency-int8")
        by_time = chosen(teacher, graph, scores, image, Path(name), budget).allocation.plan
        print(
            f"for INT8: {by_time.removed('macs'):.1%} of the MACs and {by_time.removed('latency'):.1%} of the time"
        )
        files = {"teacher": to_onnx(teacher, image, Path(name) / "teacher.onnx").path}
        for who, plan in (("student", api.plan(graph, scores, remove=0.7)), ("student for INT8", by_time)):
            student = api.distil(api.cut(teacher, plan), data, teacher=teacher, schedule=schedule)
            files[who] = to_onnx(student, image, Path(name) / f"{who}.onnx").path
        return int8_beside_float(files, data, rounds)


def int8_beside_float(files: dict[str, Path], data: Data, rounds: int) -> Row:
    """Accuracy, bytes and interleaved times on one thread of each file and its INT8, with weights of 7 and of 8 bits.

    `as_written` is the accuracy without kernels of 8 bits: where the two differ, this processor clips sums.
    """
    images = next(iter(data.test.batches(1))).images.numpy()
    calibration = calibration_images(data, 0)
    found: Row = {}
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for who, plain in files.items():
            sessions[f"{who}, fp32"] = open_session(plain, threads=1)
            for bits, name in ((7, "int8"), (8, "int8 with weights of 8 bits")):
                target = Path(folder) / f"{who}.{bits}.onnx"
                int8 = derived("onnx-int8", plain, target, Asked(calibration, weight_bits=bits)).path
                sessions[f"{who}, {name}"] = open_session(int8, threads=1)
        for name, session in sessions.items():
            found[name] = {"accuracy": accuracy_of(session, data), "bytes": session.path.stat().st_size}
            if "int8" in name:
                found[name]["as_written"] = accuracy_of(open_session(session.path, fused=False), data)
        for batch in (1, 8):
            fed = np.concatenate([images] * batch)
            times = {name: [] for name in sessions}
            for _ in range(rounds):
                for name, session in sessions.items():
                    started = time.perf_counter()
                    session(input=fed)
                    times[name].append((time.perf_counter() - started) * 1e3)
            for name, samples in times.items():
                kept = sorted(samples[5:])
                quarters = [round(kept[int(len(kept) * share)], 4) for share in (0.25, 0.5, 0.75)]
                found[name][f"batch_{batch}_ms"] = dict(zip(("q1", "median", "q3"), quarters, strict=True))
    print(json.dumps(found, indent=1), flush=True)
    return found


def accuracy_of(session: Session, data: Data) -> float:
    return accuracy(lambda batch: torch.from_numpy(session.answers(batch.numpy())), data.test)


def part_memory(folder: Path) -> Row:
    """The most memory of a process that exports a network of 1 GB, beside what it had with the network alone."""
    code = MEMORY.format(path=str(folder / "large.onnx"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    print(row, flush=True)
    return row


MEMORY = """
import json, resource, torch
from pathlib import Path
from torch import nn
from export import to_onnx
network = nn.Sequential(nn.Flatten(), *(nn.Linear(4096, 4096) for _ in range(15)), nn.Linear(4096, 10))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
size = sum(p.numel() * 4 for p in network.parameters())
before = peak()
to_onnx(network, torch.zeros(1, 1, 64, 64), Path("{path}"))
print(json.dumps({{"model_bytes": size, "before": before, "peak": peak()}}))
"""


def part_fuzz(count: int) -> Row:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        example = torch.zeros(1, 3, 12, 12)
        images = np.random.default_rng(0).normal(size=(8, 3, 12, 12)).astype(np.float32)
        first = to_onnx(settled(Residual()), example, folder / "a.onnx").path
        second = to_onnx(settled(DepthwiseWithGate()), example, folder / "b.onnx").path
        third = derived("onnx-int8", first, folder / "c.onnx", Asked((images,))).path
        seeds = [path.read_bytes() for path in (first, second, third)]
        ends, failures = fuzz_onnx(seeds, folder, count, seed=1)
        engine = folder / "n.engine"
        sidecars = fuzz_sidecars(_engine(engine), count // 5, seed=1)
    print(dict(ends), failures, sidecars, flush=True)
    return {"count": count + count // 5, "ends": dict(ends), "failures": [*failures, *sidecars]}


def _engine(path: Path) -> Path:
    import hashlib

    from compressor.exporting.engine import Sidecar, sidecar_path

    path.write_bytes(b"an engine" * 100)
    sidecar = Sidecar(hashlib.sha256(path.read_bytes()).hexdigest(), "0" * 64, PLACE, {"tf32": False})
    sidecar_path(path).write_text(sidecar.to_json())
    return path


def figures_of(samples: dict[str, Any]) -> dict[str, float]:
    figures: dict[str, float] = {}
    if rows := samples.get("models"):
        done = [row for row in rows.values() if row["exported"]]
        equal = [row for row in done if row["batch_1"]["passed"] and row["batch_8"]["passed"]]
        figures |= {"tried": len(rows), "exported": len(done), "parity": len(equal)}
    if rows := samples.get("engines"):
        figures |= {"tensorrt_tried": len(rows), "tensorrt_built": sum(row["built"] for row in rows.values())}
    for part, more in (("int8", ""), ("resnet56", "_resnet56")):
        if rows := samples.get(part):
            figures |= {f"{name}{more}": figure for name, figure in int8_figures(rows).items()}
    if row := samples.get("memory"):
        figures["export_memory_of_model"] = row["peak"] / row["model_bytes"]
    if rows := samples.get("fuzz"):
        figures |= {"fuzzed": rows["count"], "fuzz_failures": len(rows["failures"])}
    return figures


def int8_figures(rows: Row) -> dict[str, float]:
    figures: dict[str, float] = {}
    networks = [name.removesuffix(", fp32") for name in rows if name.endswith(", fp32")]
    for batch in (1, 8):
        medians = {name: row[f"batch_{batch}_ms"]["median"] for name, row in rows.items()}
        for who in networks:
            suffix = "" if (batch, who) == (1, "student") else f"_{who.replace(' ', '_')}_batch_{batch}"
            figures[f"int8_speedup{suffix}"] = medians[f"{who}, fp32"] / medians[f"{who}, int8"]
    right = {name: row["accuracy"] for name, row in rows.items()}
    for who in networks:
        suffix = "" if who == "student" else f"_{who.replace(' ', '_')}"
        figures[f"int8_accuracy_drop{suffix}"] = 100 * (right[f"{who}, fp32"] - right[f"{who}, int8"])
    return figures


@click.command()
@click.option("--only", default=",".join(PARTS), help="Parts, as in models,engines.")
@click.option("--networks", help="Names for the part `models`.")
@click.option("--run", type=click.Path(path_type=Path), help="Finished run folder, for int8 and engines.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder with CIFAR-10 and ResNet-56, for resnet56."
)
@click.option("--count", default=5000, help="Mutated files.")
@click.option("--rounds", default=400, help="Interleaved rounds of int8.")
@click.option("--json", "path", type=click.Path(path_type=Path))
def main(
    only: str,
    networks: str | None,
    run: Path | None,
    data: Path | None,
    count: int,
    rounds: int,
    path: Path | None,
) -> None:
    """See the head of this file."""
    samples: dict[str, Any] = json.loads(path.read_text())["samples"] if path and path.exists() else {}
    parts = only.split(",")
    torch.set_num_threads(1)
    if path:
        PARTIAL.append((path, samples))
    if "fuzz" in parts:
        samples["fuzz"] = part_fuzz(count)
    if "int8" in parts:
        if run is None:
            raise click.UsageError("--run names a finished run of the built-in pair")
        samples["int8"] = part_int8(run, rounds)
    if "resnet56" in parts:
        if data is None:
            raise click.UsageError("--data names a folder with CIFAR-10 and ResNet-56")
        samples["resnet56"] = part_resnet56(data, rounds)
    if "memory" in parts:
        with tempfile.TemporaryDirectory() as folder:
            samples["memory"] = part_memory(Path(folder))
    if "engines" in parts:
        samples["engines"] = part_engines(run, samples.get("engines", {}))
    if "models" in parts:
        listed = [name for name in models.list_models(module=models) if name not in TOO_LARGE]
        # The small ones first: a run that is stopped has most of the rows.
        listed.sort(key=lambda name: models.get_model_weights(name).DEFAULT.meta["num_params"])
        samples["models"] = part_models(
            networks.split(",") if networks else listed, samples.get("models", {})
        )
    write_figures(path, figures_of(samples), samples)


if __name__ == "__main__":
    main()
