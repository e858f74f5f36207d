"""One whole run, read from top to bottom: recipe -> teacher and data -> channel graph -> scores -> widths
-> cut -> proof -> distillation -> artifact -> verdict -> profile -> report.

This is the composition and nothing else: every step is a function of values that can be called alone.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.artifacts import answering, counted, exported, saved, verified
from compressor.budget.request import COST_TITLES
from compressor.cutting import FORMS, cut, form_of
from compressor.cutting.proof import Check, check_cut, require
from compressor.data import load_data
from compressor.data.split import Data
from compressor.device import choose_device
from compressor.distill import Progress, accuracy
from compressor.distill.beside import check_layers
from compressor.distill.loop import check_enough, check_sense
from compressor.distill.parallel import World, join, leave
from compressor.distill.request import WITHOUT_TEACHER
from compressor.distill.sharding import check_several
from compressor.distill.terms import terms_of
from compressor.errors import CompressError, UsageError
from compressor.events import Events
from compressor.files import write_atomic, write_json
from compressor.fitting import fit, measured_costs, on_its_granule
from compressor.given import FORM, check_given, load_given
from compressor.graph.channels import ChannelGraph
from compressor.graph.trace import trace
from compressor.measure import costs_alike, profiled
from compressor.methods import METHODS, Stage, Task, stages
from compressor.recipe import Recipe
from compressor.report.markdown import to_markdown
from compressor.report.report import Report, read_report
from compressor.report.sections import costs, layer_rows, training_row
from compressor.rundir import RunFolder, open_run
from compressor.saliency.criteria import Criterion
from compressor.saliency.kernels.sums import choose
from compressor.saliency.score import criterion_named, score
from compressor.saliency.scores import Scores
from compressor.steps import Listener, Silent, Step, Steps
from compressor.student import Student
from compressor.teacher import check_teacher, keep_teacher, load_guide, load_teacher
from compressor.timing import Bench

CURVE_STEPS = 10
"""A point of the curves every so many steps."""


def compress(recipe: Recipe, out: Path, *, listener: Listener | None = None, fresh: bool = False) -> Report:
    """Run the recipe in the folder ``out``; a run that was broken off there goes on.

    A finished run is not repeated: its report is read. ``fresh`` ignores the cache of built-in teachers. Of several
    processes that torchrun started all train, and the first one alone writes, in its ``out``; each gets the report.
    """
    with ExitStack() as stack:
        world = stack.enter_context(join(choose_device(recipe.device)))
        # One path for all: what the others write goes to a folder that is thrown away.
        own = out if world.first else Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
        report = _compress(recipe, own, world, listener or Silent(), fresh)
        report = world.from_first(lambda: report)
        assert report is not None
        return report


def _compress(recipe: Recipe, out: Path, world: World, listener: Listener, fresh: bool) -> Report | None:
    """The run as one of several processes sees it; they train, and the first one finishes it and has the report."""
    criterion = criterion_named(recipe.saliency.criterion)
    check_teacher(recipe.model)
    check_given(recipe.distil)
    if recipe.distil.shard_teacher:
        check_several(world)
    device = world.device
    choose(
        [torch.empty(0, device=device)], recipe.saliency.backend
    )  # refused now, not after training a teacher
    if "latency" in recipe.budget.needs and "onnxruntime" not in recipe.profile.runtimes:
        raise UsageError(
            f"widths are chosen by time in onnxruntime, and profile.runtimes is {list(recipe.profile.runtimes)}",
            "add `onnxruntime` to profile.runtimes, or choose widths by another cost",
        )
    run = open_run(out, recipe)
    if world.from_first(run.report.exists):
        return read_report(run.report) if world.first else None
    steps = Steps(_Logged(listener, run, world))

    with steps.step("Build teacher and data") as step:
        data = world.first_then_others(lambda: load_data(recipe.data, recipe.seed))
        world.agree("data", [data.name, data.classes, data.shape, len(data.train), len(data.test)])
        _check_request(recipe, data, criterion)
        if recipe.distil.method != "cut-only":
            check_enough(data, recipe.distil.schedule, world.size)
        teacher = load_teacher(
            recipe,
            data,
            device=device,
            progress=_showing(steps, step, {"teacher": 1}, run),
            checkpoints=run.checkpoints("teacher"),
            fresh=fresh,
        )
        if teacher.warning:
            steps.warn(teacher.warning)
        image = torch.zeros(1, *data.shape)
        right: dict[str, float] = {"teacher": accuracy(teacher.network, data.test, device=device)}
        guide = load_guide(recipe, data, teacher, right["teacher"], device)
        given = load_given(recipe, data, teacher.network)
        begins = given.network if given else teacher.network
        check_layers(terms_of(recipe.distil.losses), begins, guide.network, image)
        step.outcome = f"{teacher.origin}; {len(data.classes)} classes, top-1 {right['teacher']:.2%}"

    with steps.step("Trace the channel graph") as step:
        graph = trace(teacher.network, image, whole_heads=recipe.budget.whole_heads)
        world.agree("channel groups", graph.to_dict())
        write_json(run.graph, graph.to_dict())
        _warn_of_unsupported(graph, steps)
        step.outcome = f"{len(graph.groups)} groups to cut, {len(graph.frozen)} left whole"

    real = next(iter(data.test.batches(16))).images
    if given:
        way = _Way(_Chosen(given.path))
        write_json(run.plan, way.choice.to_dict())
    else:
        way = _cut_away(recipe, teacher.network, graph, data, device, run, world, steps)
        right["cut"] = way.cut
    path, scores, checks = way.choice.path, way.scores, [*way.checks]

    with steps.step("Distil") as step:
        keep_teacher(recipe, teacher, run.checkpoints("teacher"))
        task = Task(
            teacher.network,
            guide,
            graph,
            scores,
            recipe.budget,
            path,
            recipe.distil,
            data,
            recipe.seed,
            device,
            run.checkpoints,
            _showing(steps, step, recipe.distil.trainings([stage.name for stage in path]), run),
            given.network if given else None,
            given.auxiliary if given else None,
        )
        trainings = METHODS[recipe.distil.method](task)
        for training in trainings:
            for warning in training.trained.warnings:
                steps.warn(f"{training.stage.name}: {warning}")
        _warn_of_damage(data, steps, world)
        plan = trainings[-1].stage.plan
        student = trainings[-1].trained.network.cpu()
        right["student"] = trainings[-1].trained.accuracy
        checks.append(counted(student, plan, image))
        require(checks[-1:])
        checks += [
            replace(check, name=f"{training.stage.name} from {training.teacher}: {check.name}")
            for training in trainings
            for check in training.checks
        ]
        step.outcome = " → ".join(
            f"{training.stage.name} {training.trained.accuracy:.2%}" for training in trainings
        )
    if not world.first:
        return None
    leave()

    with steps.step("Save and export") as step:
        about = {"teacher": recipe.model.name}
        if not given:
            about |= {"remove": f"{recipe.budget.remove:g}", "of": recipe.budget.of}
        origin = given or teacher
        whole = Student(student, origin.source, plan.after(origin.done), tuple(image.shape), about)
        checks.append(saved(whole, run.student))
        networks = {"teacher": teacher.network.cpu(), "student": student}
        files = {
            name: exported(network, image, run.artifact(name, ".onnx"), recipe.export, about)
            for name, network in networks.items()
        }
        for file in files.values():
            for note in file.artifact.notes:
                steps.warn(f"{file.artifact.path.name}: {note}")
        step.outcome = f"opset {files['student'].artifact.opset}, {files['student'].artifact.bytes:,} bytes"

    with steps.step("Verify the artifact") as step:
        for file in files.values():
            checks += verified(file, real, recipe.export)
        right["onnx"] = accuracy(answering(files["student"]), data.test)
        step.outcome = f"top-1 {right['onnx']:.2%} from the file"

    with steps.step("Profile") as step:
        paths = {name: file.artifact.path for name, file in files.items()}
        profile = profiled(networks, paths, real[:1], recipe.profile)
        for name, counts in profile.counts.items():
            if counts.fallback_reason:
                steps.warn(f"{name} was counted on the CPU: {counts.fallback_reason}")
        for note in profile.notes:
            steps.warn(note)
        checks += [costs_alike(profile, name) for name in profile.file_counts]
        step.outcome = ", ".join(
            f"{row['runtime']} {row['speedup']['median']:.2f}× as fast"
            for row in profile.latency
            if row["batch"] == recipe.profile.batches[0]
        )

    report = Report(
        request={
            "remove": 0.0 if given else recipe.budget.remove,
            "of": recipe.budget.of,
            "limits": recipe.budget.limits(),
            **({"student": recipe.distil.student} if given else {}),
        },
        model={
            "name": recipe.model.name,
            "origin": teacher.origin,
            "classes": len(data.classes),
            "form": FORM if given else FORMS[form_of(student)],
        },
        data={"name": data.name, "train": len(data.train), "test": len(data.test), "shape": list(data.shape)},
        saliency={} if given else scores.to_dict(),
        cost=costs(profile, plan.costs["channels"]),
        accuracy={"metric": "top-1", **right},
        latency=profile.latency,
        trainings=[training_row(training) for training in trainings],
        widths={name: list(pair) for name, pair in plan.widths.items()},
        layers=[] if given else layer_rows(profile, graph, plan),
        not_cut=[{"name": group.name, "reason": group.frozen} for group in graph.frozen],
        checks=[check.to_dict() for check in checks],
        artifacts=[file.artifact.to_dict(relative_to=run.path) for file in files.values()],
        steps=[{"name": each.name, "seconds": round(each.seconds, 3)} for each in steps.done],
        environment={
            **profile.device,
            "device": str(device),
            "precision": trainings[-1].trained.precision.name,
        },
        warnings=[*steps.warnings],
        folder=str(run.path),
        fit=way.choice.fit,
    )
    with steps.step("Report") as step:
        write_atomic(run.report_markdown, to_markdown(report))
        write_json(run.report, report.to_dict())
        step.outcome = run.report.name
    return report


@dataclass(frozen=True)
class _Chosen:
    """The networks on the way, and how their widths came to be where they had to be measured."""

    path: tuple[Stage, ...]
    fit: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"schema": 1, "stages": [stage.to_dict() for stage in self.path], "fit": self.fit}


@dataclass(frozen=True)
class _Way:
    """The networks on the way; for a student that is cut also scores, proof, and how often it is right at first."""

    choice: _Chosen
    scores: Scores = field(default_factory=lambda: Scores("none", {}))
    checks: tuple[Check, ...] = ()
    cut: float = 0.0


def _cut_away(
    recipe: Recipe,
    teacher: nn.Module,
    graph: ChannelGraph,
    data: Data,
    device: torch.device,
    run: RunFolder,
    world: World,
    steps: Steps,
) -> _Way:
    """Score, choose widths, cut and prove."""
    with steps.step(f"Score channels by {recipe.saliency.criterion}") as step:
        # By one process: gradients and times may not repeat, and all must keep the same channels.
        scores = world.from_first(lambda: _scored(recipe, teacher, graph, data, device))
        write_atomic(run.scores, scores.to_bytes())
        if criterion_named(recipe.saliency.criterion).by_teacher:
            steps.warn("the teacher has no teacher of its own, so its loss is that of the labels alone")
        if scores.fallback:
            steps.warn(f"scores were computed by {scores.backend}: {scores.fallback}")
        if scores.unscored:
            steps.warn(
                f"{recipe.saliency.criterion} sees nothing in {', '.join(scores.unscored)}: all units alike"
            )
        step.outcome = f"{sum(group.units for group in graph.groups)} units, {scores.backend}"

    with steps.step("Choose widths") as step:
        choice = world.from_first(
            lambda: _begun(run) or _chosen(recipe, teacher, graph, scores, data, steps, step)
        )
        path, plan = choice.path, choice.path[-1].plan
        write_json(run.plan, choice.to_dict())
        for stage in path:
            if stage.missed:
                steps.warn(f"{stage.name}: {stage.missed}")
        of = recipe.budget.of if recipe.budget.remove else "macs"
        step.outcome = f"{plan.removed(of):.1%} of the {COST_TITLES[of]} will go"

    with steps.step("Cut") as step:
        merely_cut = cut(teacher, plan)
        right = accuracy(merely_cut, data.test, device=device)
        step.outcome = f"top-1 {right:.2%} before any training; the student is {FORMS[form_of(merely_cut)]}"

    with steps.step("Verify the cut") as step:
        real = next(iter(data.test.batches(4))).images
        checks = check_cut(teacher, merely_cut, plan, (real,))
        require(checks)
        step.outcome = f"equal to the silenced teacher within {checks[1].max_abs_error:.1e}"
    return _Way(choice, scores, tuple(checks), right)


def _scored(
    recipe: Recipe, teacher: nn.Module, graph: ChannelGraph, data: Data, device: torch.device
) -> Scores:
    batches = data.train.batches(recipe.saliency.batch, shuffle=recipe.seed)
    chosen = islice(batches, recipe.saliency.batches)
    return score(teacher, graph, recipe.saliency, chosen, seed=recipe.seed, device=device)


def _chosen(
    recipe: Recipe,
    teacher: nn.Module,
    graph: ChannelGraph,
    scores: Scores,
    data: Data,
    steps: Steps,
    step: Step,
) -> _Chosen:
    budget = recipe.budget
    if not budget.needs:
        return _Chosen(stages(graph, scores, budget, recipe.distil.assistants))
    image = next(iter(data.test.batches(1))).images
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(copy.deepcopy(teacher).cpu(), image, Path(folder), recipe.export, recipe.profile)
        budget = on_its_granule(budget, bench)
        costs = measured_costs(
            graph,
            budget,
            bench,
            lambda done: steps.listener.moved(step, done / 2, f"timing blocks in {bench.about}"),
        )
        fitted = fit(
            teacher,
            graph,
            scores,
            budget,
            bench,
            costs,
            lambda text: steps.listener.moved(step, 0.75, text),
        )
    if fitted.chosen.contended:
        steps.warn("other programs took the processor while students were timed: widths may miss the latency")
    path = stages(graph, scores, budget, recipe.distil.assistants, student=fitted.allocation, measured=costs)
    return _Chosen(path, fitted.to_dict())


def _begun(run: RunFolder) -> _Chosen | None:
    """The widths that a broken run had chosen: gradients and times may not repeat, so scores may differ now."""
    if not run.plan.exists():
        return None
    try:
        value = json.loads(run.plan.read_text(encoding="utf-8"))
        return _Chosen(tuple(Stage.from_dict(stage) for stage in value["stages"]), value["fit"])
    except (ValueError, KeyError, TypeError) as error:
        raise CompressError(f"`{run.plan}` is damaged: {error}", "choose another --out") from error


def _warn_of_unsupported(graph: ChannelGraph, steps: Steps) -> None:
    operators = sorted({item.operator for item in graph.unsupported})
    if operators:
        where = ", ".join(sorted({item.where for item in graph.unsupported})[:3])
        steps.warn(
            f"no rule for {', '.join(f'`{name}`' for name in operators)} (in {where}): left whole there"
        )


def _check_request(recipe: Recipe, data: Data, criterion: Criterion) -> None:
    """Refuse, before anything is trained, what could not be learnt from this data."""
    if not recipe.distil.student and criterion.needs_labels and not data.train.labelled:
        raise UsageError(
            f"criterion `{recipe.saliency.criterion}` needs labels, and `{recipe.data.unlabelled}` has none",
            "lamp, l2 and hrank need none",
        )
    if recipe.distil.method != "cut-only":
        taught = recipe.distil.method not in WITHOUT_TEACHER
        check_sense(data, recipe.distil.schedule, taught=taught, losses=recipe.distil.losses)


def _warn_of_damage(data: Data, steps: Steps, world: World) -> None:
    """What could not be read while the student learnt, by name."""
    for title, half in (("to train on", data.train), ("to test", data.test)):
        bad = list(dict.fromkeys(each for found in world.gathered(half.bad) for each in found))
        if bad:
            first = "; ".join(str(each) for each in bad[:3])
            more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
            steps.warn(f"{len(bad)} samples {title} could not be read: {first}{more}")


def _showing(
    steps: Steps, step: Step, epochs: Mapping[str, int], run: RunFolder
) -> Callable[[str, Progress], None]:
    """Tells the listener how far the trainings are, all together, the log of every epoch, and the curves."""
    names, whole = list(epochs), sum(epochs.values())
    events = Events(run.events)

    def show(name: str, now: Progress) -> None:
        before = sum(epochs[each] for each in names[: names.index(name)])
        right = "" if now.accuracy is None else f", top-1 {now.accuracy:.2%}"
        steps.listener.moved(
            step,
            (before + now.done * epochs[name]) / whole,
            f"{name}: epoch {now.epoch}/{now.epochs}, loss {now.loss:.3f}, "
            f"{now.images_per_second:,.0f} images/s, {_time(now.left_s)} left{right}",
        )
        seen = {"loss": now.loss, "accuracy": now.accuracy, "images_per_second": now.images_per_second}
        if now.over:
            run.note({"training": name, "epoch": now.epoch, **seen})
        if now.over or now.step % CURVE_STEPS == 0:
            scalars = {key: value for key, value in seen.items() if value is not None}
            events.add(
                name, (now.epoch - 1) * now.steps + now.step, {**scalars, "epoch": now.done * now.epochs}
            )

    return show


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


class _Logged:
    """A listener that also writes each finished step and warning into the run's log."""

    def __init__(self, listener: Listener, run: RunFolder, world: World) -> None:
        self.listener, self.run, self.world = listener, run, world

    def started(self, step: Step) -> None:
        self.world.doing(f"`{step.name}`")
        self.listener.started(step)

    def moved(self, step: Step, done: float, text: str) -> None:
        self.world.doing(f"`{step.name}`, {text.partition(',')[0]}")
        self.listener.moved(step, done, text)

    def ended(self, step: Step) -> None:
        self.run.note({"step": step.name, "seconds": step.seconds, "outcome": step.outcome})
        self.listener.ended(step)

    def warned(self, message: str) -> None:
        self.run.note({"warning": message})
        self.listener.warned(message)
