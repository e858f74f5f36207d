"""How fast our loop teaches, beside a plain loop written by hand, in one interleaved run.

    python benchmarks/training.py --data PATH --json FILE

A step is the teacher's answers, the student's forward and backward pass, the loss and the optimizer's step, on one
batch of CIFAR-10; the teacher is ResNet-56, the student the teacher without 70 % of its MACs. With ``--network
resnet50`` the teacher is torchvision's with random weights, and the images are noise of 224 x 224. The arms:

    torchdistill  the same step by its DistillationBox, where it is installed
    plain       eager, as a tutorial has it: teacher without gradients, cross-entropy and divergence, SGD
    ours        the loop's own step, as ``compress run`` takes it
    compiled    the same with ``distil.schedule.compile``, after its compilation
    cascade     one step of all networks together, beside the sum of the same passes taken one by one

    throughput_vs_plain         plain / ours, and plain / compiled
    throughput_vs_torchdistill  torchdistill / ours, and torchdistill / compiled
    cascade_overhead            cascade / sum of its forward and backward passes and of the teacher's forward
"""

from __future__ import annotations

import argparse
import copy
import resource
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from cifar import cifar10, resnet56
from record import write_figures
from torch import Tensor, nn

from compressor.base.device import choose_device
from compressor.data.in_memory import TensorSplit, crop_and_flip
from compressor.data.scaling import IMAGENET
from compressor.data.split import Batch, Data
from compressor.methods import stages
from compressor.methods.cascade.joint_lesson import Together
from compressor.pruning.cutting import cut
from compressor.pruning.graph.trace import trace
from compressor.pruning.scoring.score import score
from compressor.recipe.budget import Budget
from compressor.recipe.distilling import Distilling
from compressor.training import Arithmetic, Guide, Lesson, Schedule, Taught
from compressor.training.optimizers import optimizer_for

REMOVE = 0.7


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", type=Path, help="needed for resnet56")
    options.add_argument("--network", choices=("resnet56", "resnet50"), default="resnet56")
    options.add_argument("--json", type=Path)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--device", default="auto")
    options.add_argument("--precision", default="fp32")
    options.add_argument("--no-compile", action="store_true", help="leave out the arm that compiles")
    given = options.parse_args()
    if given.network == "resnet56" and given.data is None:
        options.error("--data PATH is needed for resnet56")
    device = choose_device(given.device)
    if given.network == "resnet50":
        teacher, data = resnet50(given.batch)
    else:
        data = cifar10(given.data, given.batch // 10 + 1, 10, crop_and_flip)
        teacher = resnet56(given.data)
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    image = torch.zeros(1, *data.shape)
    graph = trace(teacher, image)
    scores = score(teacher, graph, "lamp")
    budget = Budget(REMOVE, granule=1)
    path = stages(graph, scores, budget, 1)
    student = cut(teacher, path[-1].plan)
    batch = next(iter(data.train.batches(given.batch, shuffle=0)))
    schedule = Schedule(batch=given.batch, precision=given.precision)
    arithmetic = Arithmetic.on(device, given.precision)

    arms: dict[str, Callable[[], None]] = {
        "plain": plain(teacher, student, batch, schedule, arithmetic),
        "ours": step_of(taught(student, teacher, data, schedule, arithmetic), batch, schedule, arithmetic),
    }
    if find_spec("torchdistill"):
        arms["torchdistill"] = torchdistill(teacher, student, batch, schedule, arithmetic)
    if not given.no_compile:
        compiled = Schedule(batch=given.batch, precision=given.precision, compile=True)
        lesson = taught(student, teacher, data, compiled, arithmetic)
        arms["compiled"] = step_of(lesson, batch, compiled, arithmetic)
    together = Together(
        teacher, Guide("teacher", teacher), graph, scores, budget, path, Distilling(schedule=schedule), data, arithmetic
    )  # fmt: skip
    arms["cascade"] = step_of(together, batch, schedule, arithmetic)
    for name, network in together.networks.items():
        arms[f"pass: {name}"] = passes(copy.deepcopy(network), batch, arithmetic)
    arms["pass: teacher"] = answers(teacher, batch, arithmetic)

    samples: dict[str, list[float]] = {name: [] for name in arms}
    peaks: dict[str, int] = {}
    for number in range(given.rounds + 2):
        for name, run in arms.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
                peaks[name] = torch.cuda.max_memory_allocated(device)
            if number >= 2:  # two rounds to compile and to warm up
                samples[name].append(time.perf_counter() - start)
    figures = {f"ms_{name}": 1000 * statistics.median(values) for name, values in samples.items()}
    for them in ("plain", "torchdistill"):
        for us, title in (("ours", ""), ("compiled", "_compiled")):
            if them in samples and us in samples:
                figures[f"throughput_vs_{them}{title}"] = ratio(samples[them], samples[us])
    one_by_one = [
        sum(samples[name][i] for name in samples if name.startswith("pass")) for i in range(given.rounds)
    ]
    figures["cascade_overhead"] = ratio(samples["cascade"], one_by_one)
    figures["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures |= {f"peak_mb_{name}": peak / 2**20 for name, peak in peaks.items()}
    write_figures(given.json, figures, samples)


def resnet50(batch: int) -> tuple[nn.Module, Data]:
    """A network as large as they come on one machine, and a batch for it: only their sizes matter here."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8)
    split = TensorSplit(images, torch.arange(batch) % 10, IMAGENET, crop_and_flip)
    data = Data("noise", tuple("abcdefghij"), (3, 224, 224), split, split)
    return torchvision.models.resnet50(num_classes=10).eval(), data


def ratio(above: list[float], below: list[float]) -> float:
    """The median of the rounds' ratios: what slows the machine down slows a whole round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def plain(
    teacher: nn.Module, student: nn.Module, batch: Batch, schedule: Schedule, arithmetic: Arithmetic
) -> Callable[[], None]:
    """The loop of a tutorial, in the same precision."""
    device = arithmetic.device
    teacher, student = copy.deepcopy(teacher).to(device).eval(), copy.deepcopy(student).to(device).train()
    optimizer = torch.optim.SGD(
        student.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=schedule.weight_decay
    )
    temperature, share = schedule.temperature, schedule.teacher_weight

    def step() -> None:
        images, labels = batch.images.to(device), batch.labels.to(device)
        with arithmetic.autocast():
            with torch.no_grad():
                told = teacher(images)
            said = student(images)
            soft = F.kl_div(
                F.log_softmax(said / temperature, 1), F.softmax(told / temperature, 1), reduction="batchmean"
            )
            loss = share * temperature**2 * soft + (1 - share) * F.cross_entropy(said, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def torchdistill(
    teacher: nn.Module, student: nn.Module, batch: Batch, schedule: Schedule, arithmetic: Arithmetic
) -> Callable[[], None]:
    """One step as torchdistill's own example of knowledge distillation takes it."""
    import_module("torchdistill.losses.mid_level")
    device = arithmetic.device
    teacher, student = copy.deepcopy(teacher).to(device).eval(), copy.deepcopy(student).to(device).train()
    whole = {"module_path": ".", "io": "output"}
    loss = {
        "key": "KDLoss",
        "kwargs": {
            **{
                f"{who}_module_{key.removeprefix('module_')}": value
                for who in ("student", "teacher")
                for key, value in whole.items()
            },
            "temperature": schedule.temperature,
            "alpha": 1 - schedule.teacher_weight,
            "reduction": "batchmean",
        },
    }
    box = import_module("torchdistill.core.distillation").DistillationBox(
        teacher,
        student,
        {},
        {
            "num_epochs": 1,
            "teacher": {"sequential": [], "forward_proc": "forward_batch_only", "requires_grad": False},
            "student": {"sequential": [], "forward_proc": "forward_batch_only", "requires_grad": True},
            "optimizer": {
                "key": "SGD",
                "kwargs": {
                    "lr": 0.01,
                    "momentum": 0.9,
                    "nesterov": True,
                    "weight_decay": schedule.weight_decay,
                },
            },
            "criterion": {
                "key": "WeightedSumLoss",
                "kwargs": {"sub_terms": {"kd": {"criterion": loss, "weight": 1.0}}},
            },
        },
        device,
        None,
        False,
        1,
    )

    def step() -> None:
        images, labels = batch.images.to(device), batch.labels.to(device)
        with arithmetic.autocast():
            found = box.forward_process(images, labels)
        box.post_forward_process(loss=found)
        found.item()

    return step


def taught(
    student: nn.Module, teacher: nn.Module, data: Data, schedule: Schedule, arithmetic: Arithmetic
) -> Taught:
    return Taught(student, [Guide("teacher", teacher)], data, schedule, arithmetic)


def step_of(lesson: Lesson, batch: Batch, schedule: Schedule, arithmetic: Arithmetic) -> Callable[[], None]:
    """What the loop does for one batch."""
    optimizer = optimizer_for(lesson.decayed, lesson.kept, schedule)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    for network in lesson.networks.values():
        network.train()

    def step() -> None:
        images = arithmetic.images(batch.images)
        labels = batch.labels.to(arithmetic.device)
        optimizer.zero_grad(set_to_none=True)
        loss = lesson.learn(images, labels, batch.index, lambda part: part.backward())
        lesson.before_step()
        optimizer.step()
        lesson.after_step(1, 1000)
        loss.item()

    return step


def passes(network: nn.Module, batch: Batch, arithmetic: Arithmetic) -> Callable[[], None]:
    """Forward and backward pass of one network, and nothing else."""
    network = arithmetic.copy(network).train()
    images, labels = arithmetic.images(batch.images), batch.labels.to(arithmetic.device)

    def step() -> None:
        with arithmetic.autocast():
            said: Tensor = network(images)
            loss = F.cross_entropy(said, labels)
        loss.backward()
        network.zero_grad(set_to_none=True)

    return step


def answers(teacher: nn.Module, batch: Batch, arithmetic: Arithmetic) -> Callable[[], None]:
    network = arithmetic.copy(teacher).eval()
    images = arithmetic.images(batch.images)

    def step() -> None:
        with torch.no_grad(), arithmetic.autocast():
            network(images)

    return step


if __name__ == "__main__":
    main()
