"""One whole run, read from top to bottom: recipe -> teacher and data -> channel graph -> scores -> widths
-> cut -> proof -> distillation -> artifact -> verdict -> profile -> report.

This is the composition and nothing else: every step is a function of values that can be called alone.
"""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from compressor.artifacts.file_times import with_times
from compressor.artifacts.profile import costs_alike, profiled
from compressor.artifacts.promises import counted, saved
from compressor.artifacts.prove import in_pytorch, truth_of_network
from compressor.artifacts.student import Student
from compressor.artifacts.write import (
    Source,
    Written,
    calibration_images,
    checked,
    engine_rows,
    formats_of,
    settled,
    written_all,
    written_onnx,
)
from compressor.base.device import choose_device
from compressor.base.files import write_atomic, write_json
from compressor.data import load_data
from compressor.data.split import Data
from compressor.errors import CompressError, UsageError
from compressor.methods import METHODS, Task
from compressor.methods.probe_teacher import probed
from compressor.methods.quantise_aware import in_eight_bits
from compressor.pruning.cutting import FORMS, form_of
from compressor.pruning.cutting.proof import require
from compressor.pruning.graph.trace import trace
from compressor.pruning.scoring.criteria import Criterion
from compressor.pruning.scoring.kernels.sums import choose
from compressor.pruning.scoring.score import criterion_named
from compressor.recipe import Recipe
from compressor.recipe.distilling import TEACHER_NONE, UNTAUGHT, WITHOUT_TEACHER
from compressor.recipe.loss_terms import terms_of
from compressor.recipe.repair import Repairing
from compressor.run.folder import open_run
from compressor.run.given_student import FORM, check_given, load_given
from compressor.run.progress import Logged, showing, showing_repairs, warn_of_damage, warn_of_unsupported
from compressor.run.prune import Chosen, Way, cut_away
from compressor.run.report.markdown import to_markdown
from compressor.run.report.report import Report, read_report
from compressor.run.report.sections import costs, layer_rows, training_row
from compressor.run.steps import Listener, Silent, Steps
from compressor.run.teacher import RANDOM, check_teacher, keep_teacher, load_guide, load_teacher
from compressor.training import accuracy
from compressor.training.comparisons import check_layers
from compressor.training.distributed.sharded_teacher import check_several
from compressor.training.distributed.world import World, join, leave
from compressor.training.refusals import check_enough, check_sense


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
    if recipe.distil.teacher == TEACHER_NONE and not recipe.model.weights:
        recipe = replace(recipe, model=replace(recipe.model, weights=RANDOM))
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
    formats, left_out = formats_of(recipe.export)  # refused now, not after training
    if recipe.budget.latency_of not in ("onnx", *formats):
        raise UsageError(
            f"widths are chosen by the time of `{recipe.budget.latency_of}`, and export.to is {list(recipe.export.to)}",
            f"add `--to {recipe.budget.latency_of}`",
        )
    run = open_run(out, recipe)
    if world.from_first(run.report.exists):
        return read_report(run.report) if world.first else None
    steps = Steps(Logged(listener, run, world))

    with steps.step("Build teacher and data") as step:
        data = world.first_then_others(lambda: load_data(recipe.data, recipe.seed))
        world.agree("data", [data.name, data.classes, data.shape, len(data.train), len(data.test)])
        _check_request(recipe, data, criterion)
        if recipe.distil.method not in UNTAUGHT:
            check_enough(data, recipe.distil.schedule, world.size)
        teacher = load_teacher(
            recipe,
            data,
            device=device,
            progress=showing(steps, step, {"teacher": 1}, run),
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
        asked_too = None if recipe.distil.method in WITHOUT_TEACHER else guide.network
        check_layers(terms_of(recipe.distil.losses), begins, asked_too, image)
        step.outcome = f"{teacher.origin}; {len(data.classes)} classes, top-1 {right['teacher']:.2%}"

    with steps.step("Trace the channel graph") as step:
        graph = trace(teacher.network, image, whole_heads=recipe.budget.whole_heads)
        world.agree("channel groups", graph.to_dict())
        write_json(run.graph, graph.to_dict())
        warn_of_unsupported(graph, steps)
        step.outcome = f"{len(graph.groups)} groups to cut, {len(graph.frozen)} left whole"

    real = next(iter(data.test.batches(16))).images
    if given:
        way = Way(Chosen(given.path))
        write_json(run.plan, way.choice.to_dict())
    else:
        way = cut_away(recipe, teacher.network, graph, data, device, run, world, steps)
        right["cut"] = way.cut
    path, scores, checks = way.choice.path, way.scores, [*way.checks]

    with steps.step("Repair and distil") as step:
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
            showing(steps, step, recipe.distil.trainings([stage.name for stage in path]), run),
            given.network if given else None,
            given.auxiliary if given else None,
            # A network that need not know anything is not worth being resembled.
            Repairing(0) if recipe.distil.teacher == TEACHER_NONE else recipe.repair,
            showing_repairs(steps, step),
        )
        warning = probed(task) if recipe.distil.probe else None
        if warning:
            steps.warn(warning)
        trainings = METHODS[recipe.distil.method](task)
        if recipe.distil.quantise_aware_epochs:
            last, told = in_eight_bits(task, trainings[-1], recipe.export.int8_weight_bits)
            trainings = (*trainings[:-1], last)
            steps.warn(told)
        for training in trainings:
            for warning in (*training.start.warnings, *training.trained.warnings):
                steps.warn(f"{training.stage.name}: {warning}")
        warn_of_damage(data, steps, world)
        plan = trainings[-1].stage.plan
        student = trainings[-1].trained.network.cpu()
        start = next((each.start for each in reversed(trainings) if each.start.repair), None)
        repair = start.repair if start and start.repair and start.repair["helped"] else None
        if start and repair and start.accuracy is not None:
            right["repaired"] = start.accuracy
        right["student"] = trainings[-1].trained.accuracy
        checks.append(counted(student, plan, image))
        require(checks[-1:])
        checks += [
            replace(check, name=f"{training.stage.name} from {training.teacher}: {check.name}")
            for training in trainings
            for check in training.start.checks
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
            if repair:
                about["repaired"] = f"{repair['images']} images"
            about["plan"] = hashlib.sha256(run.plan.read_bytes()).hexdigest()
        origin = given or teacher
        whole = Student(student, origin.source, plan.after(origin.done), tuple(image.shape), about)
        checks.append(saved(whole, run.student))
        networks = {"teacher": teacher.network.cpu(), "student": student}
        files = {
            name: written_onnx(network, image, run.artifact(name, ".onnx"), recipe.export, about)
            for name, network in networks.items()
        }
        for training in trainings:
            if training.ships:
                name, other = training.stage.name, training.trained.network.cpu()
                done = training.stage.plan.after(teacher.done)
                checks.append(saved(replace(whole, network=other, plan=done), run.beside(name), name))
                files[name] = written_onnx(other, image, run.artifact(name, ".onnx"), recipe.export, about)
                networks[name] = other
        step.outcome = f"opset {files['student'].opset}, {files['student'].bytes:,} bytes"

    with steps.step("Verify the artifact") as step:
        truth = truth_of_network(student, real, data)
        proven: list[Written] = []
        for name, file in files.items():
            own = truth if name == "student" else truth_of_network(networks[name], real)
            proven.append(checked(file, own, recipe.export, ships=name != "teacher"))
        calibration = calibration_images(data, recipe.export, recipe.seed) if formats != ("onnx",) else ()
        source = Source(files["student"].path, run.artifact("student", ""), student, image, calibration)
        proven += written_all(formats, source, truth, recipe.export)
        checks += [check for each in proven for check in each.checks]
        for note in (*(note for each in proven for note in each.notes), *left_out):
            steps.warn(note)
        proofs = [in_pytorch("student", truth), *(proof for each in proven for proof in each.proofs)]
        first = next(proof for proof in proofs if proof.file == files["student"].path.name)
        if first.accuracy is None:  # it does not even run: there is nothing to profile
            raise CompressError(first.detail)
        right["onnx"] = first.accuracy
        step.outcome = f"top-1 {right['onnx']:.2%} from the file"

    with steps.step("Profile") as step:
        both = {name: networks[name] for name in ("teacher", "student")}
        paths = {name: files[name].path for name in both}
        profile = profiled(both, paths, real[:1], recipe.profile)
        for name, counts in profile.counts.items():
            if counts.fallback_reason:
                steps.warn(f"{name} was counted on the CPU: {counts.fallback_reason}")
        for note in profile.notes:
            steps.warn(note)
        checks += [costs_alike(profile, name) for name in profile.file_counts]
        ship = [each.artifact.path for each in proven if each.artifact is not None]
        proofs, slow = with_times(
            proofs, ship, real[:1], recipe.profile, against=paths["teacher"], plain=paths["student"].name
        )
        for note in slow:
            steps.warn(note)
        step.outcome = ", ".join(
            f"{row['runtime']} {row['speedup']['median']:.2f}× as fast"
            for row in profile.latency
            if row["batch"] == recipe.profile.batches[0]
        )

    artifacts = [each.artifact for each in map(settled, proven) if each.artifact is not None]
    report = Report(
        request={
            "remove": 0.0 if given else recipe.budget.remove,
            "of": recipe.budget.of,
            "limits": recipe.budget.limits(),
            **({"latency_of": recipe.budget.latency_of} if way.choice.fit else {}),
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
        repairs=[
            {"network": training.stage.name, "accuracy": training.start.accuracy, **training.start.repair}
            for training in trainings
            if training.start.repair
        ],
        widths={name: list(pair) for name, pair in plan.widths.items()},
        layers=[] if given else layer_rows(profile, graph, plan),
        not_cut=[{"name": group.name, "reason": group.frozen} for group in graph.frozen],
        checks=[check.to_dict() for check in checks],
        proofs=[proof.to_dict() for proof in proofs],
        artifacts=[artifact.to_dict(relative_to=run.path) for artifact in artifacts],
        steps=[{"name": each.name, "seconds": round(each.seconds, 3)} for each in steps.done],
        environment={
            **profile.device,
            "device": str(device),
            "precision": trainings[-1].trained.precision.name,
        },
        warnings=[*steps.warnings],
        folder=str(run.path),
        fit=way.choice.fit,
        engines=engine_rows(proven),
    )
    with steps.step("Report") as step:
        write_atomic(run.report_markdown, to_markdown(report))
        write_json(run.report, report.to_dict())
        step.outcome = run.report.name
    return report


def _check_request(recipe: Recipe, data: Data, criterion: Criterion) -> None:
    """Refuse, before anything is trained, what could not be learnt from this data."""
    if not recipe.distil.student and criterion.needs_labels and not data.train.labelled:
        raise UsageError(
            f"criterion `{recipe.saliency.criterion}` needs labels, and `{recipe.data.unlabelled}` has none",
            "lamp, l2 and hrank need none",
        )
    if recipe.distil.method not in UNTAUGHT:
        taught = recipe.distil.method not in WITHOUT_TEACHER
        check_sense(data, recipe.distil.schedule, taught=taught, losses=recipe.distil.losses)
