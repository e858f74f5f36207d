"""The command line: parse, call, print. No decision about compression lives here.

torch is imported inside the commands, so that help and usage errors answer at once.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import click

from compressor.budget.request import COST_TITLES
from compressor.errors import CompressError, UsageError
from compressor.processes import CLAIMED, ToldError, launched

TRUST_HELP = "Import and call the code that a student folder names."
REMOVE_HELP = "Share of the teacher's cost to REMOVE: 0.7 leaves 30 %."


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Try it: `compress run --ratio 0.7` needs no model, no data and no download.",
)
@click.version_option(package_name="compress-to-edge")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Make a trained PyTorch network small enough for the edge, and prove it.

    Prunes while distilling, removes channels for real, exports to ONNX, checks that the file is the
    network, and measures both.
    """


@cli.command()
@click.argument("model", required=False)
@click.option("--ratio", type=float, help=REMOVE_HELP)
@click.option(
    "--of", "cost", metavar=f"[{'|'.join(COST_TITLES)}]", help="The cost that --ratio counts  [default: macs]"
)
@click.option("--max-macs", type=int, help="The most MACs that may stay; limits can be combined.")
@click.option("--max-params", type=int, help="The most parameters that may stay.")
@click.option("--max-bytes", type=int, help="The most bytes of the ONNX file; measured.")
@click.option("--max-latency-ms", type=float, help="The most milliseconds; measured in ONNX Runtime.")
@click.option("--threads", type=int, help="Threads of every runtime that is measured  [default: 1]")
@click.option(
    "--keep", multiple=True, metavar="PATTERN", help="Modules not to touch, as in 'head.*'; repeatable."
)
@click.option("--granule", type=int, help="Widths are multiples of it  [default: 8]")
@click.option("--whole-heads", is_flag=True, help="Attention loses heads, not width inside every head.")
@click.option("--data", help="Built-in name, folder, shards as in 'x-{00..12}.tar', package.module:factory.")
@click.option("--data-test", help="Shards for the test half  [default: some of --data are held out]")
@click.option("--unlabelled", help="Folder of pictures without classes, to train on instead.")
@click.option("--augment", help="default, none, randaugment, trivialaugment, autoaugment.")
@click.option("--teacher-augment", help="What the teacher is shown  [default: what the student sees]")
@click.option("--data-root", help="Where a torchvision data set lies, or is downloaded to.")
@click.option("--download", is_flag=True, help="Allow a torchvision data set to be downloaded.")
@click.option("--size", type=int, help="Side of the images in pixels  [default: the data's own]")
@click.option("--weights", help="safetensors or torch file, or `pretrained` for the published weights.")
@click.option("--classes", type=int, help="Number of classes, where the data does not say; of the glyphs.")
@click.option(
    "--criterion",
    help="How channels are scored: a name of docs/criteria.md, or package.module:function  [default: lamp]",
)
@click.option("--combine", help="How a group's layers make one score: sum, mean, max, first.")
@click.option("--normalise", help="How groups are put on one scale: none, mean, max, per-macs.")
@click.option("--backend", help="Who sums weights and gradients: auto, torch, cuda  [default: auto]")
@click.option(
    "--method",
    help="How the student is taught: steps, cascade, kd, finetune … (docs/distilling.md)  [default: steps]",
)
@click.option("--assistants", type=int, help="Networks between teacher and student  [default: 1]")
@click.option("--between", type=float, multiple=True, help="Share that a network between loses; repeatable.")
@click.option("--masks", help="In a cascade: channels learned, or as scored  [default: learned]")
@click.option("--teacher", help="Another, stronger network that teaches MODEL, or `none`.")
@click.option("--teacher-weights", help="Its weights: a file, or `pretrained`.")
@click.option("--student", help="A network to teach in place of one cut from MODEL; a name as MODEL is.")
@click.option("--student-weights", help="Its weights: a file, or `pretrained`  [default: random]")
@click.option(
    "--loss",
    "losses",
    multiple=True,
    help="Another loss by the teacher, as in pkt=100,decay=0.7; again for more.",
)
@click.option("--probe", type=int, help="Epochs to see first whether the teacher helps at all.")
@click.option("--shard-teacher", is_flag=True, help="Each process of torchrun holds a part of the teacher.")
@click.option("--epochs", type=int, help="Epochs for each network that is taught.")
@click.option("--seed", type=int, help="Seed of everything random  [default: 0]")
@click.option("--device", help="auto, cpu, cuda, cuda:1 or mps  [default: auto]")
@click.option("--trust", is_flag=True, help=TRUST_HELP)
@click.option("--recipe", "recipe_file", type=click.Path(path_type=Path), help="TOML; options win over it.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run folder; the same one continues a broken run."
)
@click.option("--fresh", is_flag=True, help="Ignore the cache of built-in teachers.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout.")
def run(
    model: str | None,
    recipe_file: Path | None,
    out: Path | None,
    fresh: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compress MODEL: score, cut, distil, export, verify, profile.

    MODEL is a torchvision name, timm:NAME, package.module:factory or a student folder. Without MODEL and
    --data the built-in pair is used: rendered glyphs, and a residual network trained on first use.
    `torchrun … -m compressor run …` trains with several processes, on one machine or many.
    """
    from compressor.recipe import read_recipe, recipe_with

    started = launched()
    if (
        started.size > 1
    ):  # torch would print its own stack frames when another process dies; we say it in a line
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    limited = any(options[name] is not None for name in SETTINGS if name.startswith("max_"))
    if options["ratio"] is None and recipe_file is None and not limited and not options["student"]:
        raise UsageError(
            "how much to remove is not given",
            "--ratio 0.7 removes 70 % of the MACs; --student NAME teaches another network",
        )
    options["model"] = model
    # By identity: `--ratio 0` and `--assistants 0` are given, and 0 == False.
    given = {name: value for name, value in options.items() if value not in (None, ()) and value is not False}
    changes = {SETTINGS[name]: value for name, value in given.items()}
    recipe = read_recipe(recipe_file, changes) if recipe_file else recipe_with(changes)

    from compressor.api import compress, run_name
    from compressor.console import Live, talk
    from compressor.report.text import print_report
    from compressor.rundir import RunFolder, free_name
    from compressor.steps import Silent

    out = out or free_name(Path("runs"), run_name(recipe))
    finished = RunFolder(out).report.exists()
    first = started.rank == 0  # of several processes one speaks; its folder is that of the run
    try:
        with Live(f"run folder: {out}") if first else nullcontext(Silent()) as live:
            if finished and first:
                talk.print(f"this run was finished before: its report, from {out}")
            report = compress(recipe, out, listener=live, fresh=fresh)
    except KeyboardInterrupt:
        if first:
            talk.print(f"stopped; the same command with `--out {out}` goes on from the last checkpoint")
        sys.exit(130)
    if not first:
        pass
    elif as_json:
        _print_json(report.to_dict())
    else:
        print_report(report, _stdout())
    if not report.passed:
        sys.exit(4)


@cli.command(short_help="Show the channel groups of MODEL, and what stays whole.")
@click.argument("model")
@click.option("--weights", help="Weights file; the groups are the same without.")
@click.option("--classes", type=int, help="Number of classes.")
@click.option("--shape", default=None, help="Channels, height, width, as in 3,224,224.")
@click.option("--trust", is_flag=True, help=TRUST_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def inspect(
    model: str, weights: str | None, classes: int | None, shape: str | None, trust: bool, as_json: bool
) -> None:
    """Show the channel groups of MODEL: what each costs, what cannot be cut and why."""
    from compressor.inspect import inspected, print_inspection
    from compressor.recipe import ModelRecipe

    found = inspected(ModelRecipe(model, weights or "", trust), classes, _shape(shape))
    _print_json(found.to_dict()) if as_json else print_inspection(found, _stdout())


@cli.command(short_help="Measure a network or a file, or compare two.")
@click.argument("subject")
@click.argument("other", required=False)
@click.option("--shape", default=None, help="Channels, height, width, as in 3,224,224.")
@click.option("--runtime", help="One or several, as in ort,torch,openvino, or all  [default: what fits]")
@click.option("--batch", default="1", show_default=True, help="Images at a time; several as in 1,8.")
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of every runtime.")
@click.option("--precision", default="fp32", show_default=True, help="fp32, fp16 or bf16, in PyTorch.")
@click.option("--cuda-graph", is_flag=True, help="Replay the work of a GPU as one recorded CUDA graph.")
@click.option("--layers", is_flag=True, help="Say where the time goes, layer by layer, in ONNX Runtime.")
@click.option("--samples", type=int, default=100, show_default=True, help="Interleaved rounds.")
@click.option("--trust", is_flag=True, help=TRUST_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def profile(
    subject: str,
    other: str | None,
    shape: str | None,
    runtime: str | None,
    batch: str,
    layers: bool,
    trust: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure SUBJECT, or compare it with OTHER: each a model name, a student folder or an ONNX file."""
    from compressor.recipe import ProfileRecipe
    from compressor.subjects import print_profile, profile_subjects

    names = tuple(runtime.replace(" ", "").split(",")) if runtime else ()
    recipe = ProfileRecipe(runtimes=names, batches=_batches(batch), budget_s=30.0, **options)
    subjects = [subject, other] if other else [subject]
    result = profile_subjects(subjects, _shape(shape), recipe, trust=trust, layers=layers)
    _print_json(result.to_dict()) if as_json else print_profile(result, _stdout())


@cli.command(short_help="Write MODEL as files, and compare each with PyTorch.")
@click.argument("model")
@click.option(
    "--to", "names", default="onnx", show_default=True, help="Formats, as in onnx,onnx-int8; or all."
)
@click.option("--out", type=click.Path(path_type=Path), help="The first file to write  [default: beside it]")
@click.option("--weights", help="Weights file, or `pretrained`.")
@click.option("--classes", type=int, help="Number of classes.")
@click.option("--shape", default=None, help="Channels, height, width, as in 3,224,224.")
@click.option("--opset", type=int, help="Operator set  [default: the exporter's own]")
@click.option("--data", help="Images to calibrate and test int8 on  [default: those of the run]")
@click.option("--calibration", default="minmax", show_default=True, help="minmax, entropy, percentile.")
@click.option("--max-accuracy-drop", type=float, default=0.5, show_default=True, help="Points of top-1.")
@click.option("--tf32", is_flag=True, help="Let TensorRT multiply float32 in TF32.")
@click.option("--trust", is_flag=True, help=TRUST_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def export(
    model: str,
    names: str,
    out: Path | None,
    weights: str | None,
    classes: int | None,
    shape: str | None,
    data: str | None,
    trust: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Export MODEL (a run, a student folder, a model name, an ONNX file), and compare each file with PyTorch."""
    from compressor.console import talk
    from compressor.recipe import ExportRecipe, ModelRecipe
    from compressor.subjects import ExportRequest, export_subject

    recipe = ExportRecipe(to=tuple(names.replace(" ", "").split(",")), **options)
    subject = ModelRecipe(model, weights or "", trust)
    files = export_subject(ExportRequest(subject, recipe, classes, _shape(shape), out, data))
    checks = [check for file in files for check in file.checks]
    if as_json:
        artifacts = [file.artifact.to_dict() for file in files]
        _print_json(
            {
                "artifact": artifacts[0],
                "artifacts": artifacts,
                "checks": [check.to_dict() for check in checks],
            }
        )
    else:
        for note in dict.fromkeys(note for file in files for note in file.notes):
            talk.print(f"warning: {note}", markup=False)
        for check in checks:
            print(f"{'passed' if check.passed else 'FAILED'}  {check.name}: {check.detail}")
        for file in files:
            print(file.artifact.path)
    if not all(check.passed for check in checks):
        sys.exit(4)


@cli.command(short_help="Is CANDIDATE as small, as fast and as right as BASELINE?")
@click.argument("baseline")
@click.argument("candidate", required=False)
@click.option("--max-slowdown", default="2.5%", show_default=True, help="Slowdown that is allowed.")
@click.option(
    "--max-growth", default="1%", show_default=True, help="Growth of MACs, parameters, bytes, operators."
)
@click.option("--max-bytes", type=int, help="The most that the candidate's file may have.")
@click.option(
    "--max-accuracy-drop", type=float, help="Points of top-1 that may be lost  [default: 0.5, if known]"
)
@click.option(
    "--max-output-error",
    type=float,
    help="Difference of outputs that is allowed, of the largest  [default: any]",
)
@click.option("--granule", type=int, default=8, show_default=True, help="Widths should be multiples of it.")
@click.option("--batch", type=int, default=1, show_default=True, help="Images at a time.")
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of the runtime.")
@click.option("--processes", type=int, help="The most processes that measure  [default: 24]")
@click.option("--exact-only", is_flag=True, help="Compare what is exact; measure nothing.")
@click.option(
    "--any-device", is_flag=True, help="Decide the time although the baseline is of another machine."
)
@click.option("--strict", is_flag=True, help="What could not be decided counts as failed.")
@click.option("--save", type=click.Path(path_type=Path), help="Write the last argument as a baseline.json.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write JUnit XML here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def check(baseline: str, candidate: str | None, **options: Any) -> None:
    """Compare CANDIDATE with BASELINE: each an ONNX file, a run folder, or a baseline.json from before.

    Ends with 0 if it passed, 4 if it failed, 3 if the time could not be decided on this machine.
    """
    from compressor.guard.command import run_check

    sys.exit(run_check(baseline, candidate, options))


@cli.command(short_help="Say how often MODEL is right, and how well it retrieves.")
@click.argument("model")
@click.option("--data", help="As for `run`  [default: that of a run folder]")
@click.option("--data-root", help="Where a torchvision data set lies.")
@click.option("--size", type=int, help="Side of the images in pixels  [default: the data's own]")
@click.option("--classes", type=int, help="Number of classes, where the data does not say.")
@click.option("--seed", type=int, help="Decides what is held out, where data has no test half  [default: 0]")
@click.option("--weights", help="Weights file, or `pretrained`.")
@click.option("--retrieval", is_flag=True, help="Rank the training images for each test image.")
@click.option(
    "--layer", help="Module whose output is compared  [default: what the last linear layer is given]"
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps")
@click.option("--trust", is_flag=True, help=TRUST_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def evaluate(
    model: str,
    data: str | None,
    data_root: str | None,
    size: int | None,
    classes: int | None,
    weights: str | None,
    trust: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Say how often MODEL is right on data: a run folder, a student folder or a model name with --weights.

    With --retrieval: mean average precision and precision of the first 100, by Euclidean distance and by cosine.
    """
    from compressor.evaluate import evaluate, print_evaluation
    from compressor.recipe import DataRecipe, ModelRecipe

    about = {"root": data_root, "size": size, "classes": classes}
    given = {key: value for key, value in about.items() if value is not None}
    if data is None and given:
        raise UsageError(
            f"the {next(iter(given))} of data is given, and --data is not", "name the data as well"
        )
    wanted = DataRecipe(data, **given) if data else None  # type: ignore[arg-type]
    found = evaluate(ModelRecipe(model, weights or "", trust), wanted, **options)
    _print_json(found.to_dict()) if as_json else print_evaluation(found, _stdout())


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
@click.option("--markdown", is_flag=True, help="Print Markdown on stdout.")
def report(folder: Path, as_json: bool, markdown: bool) -> None:
    """Show the report of a finished run."""
    from compressor.report.markdown import to_markdown
    from compressor.report.report import read_report
    from compressor.report.text import print_report

    found = read_report(folder)
    if as_json:
        _print_json(found.to_dict())
    elif markdown:
        print(to_markdown(found), end="")
    else:
        print_report(found, _stdout())
    if not found.passed:
        sys.exit(4)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def doctor(as_json: bool) -> None:
    """Say what this machine can do, and what to install for the rest."""
    from compressor.doctor import examine

    findings = examine()
    if as_json:
        _print_json([finding.to_dict() for finding in findings])
        return
    for finding in findings:
        mark = "ok" if finding.works else "--"
        advice = f"\n{'':21}{finding.advice}" if finding.advice else ""
        print(f"{mark}  {finding.part:<16} {finding.found}{advice}")


_DISTILLING = (
    *("method", "assistants", "between", "masks", "teacher", "teacher_weights", "student", "student_weights"),
    *("losses", "probe", "shard_teacher"),
)

SETTINGS = {
    "model": "model.name",
    "weights": "model.weights",
    "trust": "model.trust",
    "ratio": "budget.remove",
    "cost": "budget.of",
    **{name: f"budget.{name}" for name in ("max_macs", "max_params", "max_bytes", "max_latency_ms")},
    "threads": "profile.threads",
    "keep": "budget.keep",
    "granule": "budget.granule",
    "whole_heads": "budget.whole_heads",
    "data": "data.name",
    "data_test": "data.test",
    "unlabelled": "data.unlabelled",
    "augment": "data.augment",
    "teacher_augment": "data.teacher_augment",
    "data_root": "data.root",
    "download": "data.download",
    "size": "data.size",
    "classes": "data.classes",
    "criterion": "saliency.criterion",
    "combine": "saliency.combine",
    "normalise": "saliency.normalise",
    "backend": "saliency.backend",
    **{name: f"distil.{name}" for name in _DISTILLING},
    "epochs": "distil.schedule.epochs",
    "seed": "seed",
    "device": "device",
}
"""Which setting of the recipe each option of ``run`` is."""


def main() -> NoReturn:
    """The console script: runs the command line and turns every error into a line and an exit code."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments  # before or after the command's name: nobody remembers which
    rest = [each for each in arguments if each != "--debug"]
    sys.exit(_guarded(lambda: cli.main(rest, standalone_mode=False), debug))


def _guarded(call: Callable[[], Any], debug: bool) -> int:
    from compressor.console import complain

    try:
        call()
    except SystemExit as stop:
        return int(stop.code or 0)
    except click.exceptions.Abort:
        return 130
    except KeyboardInterrupt:
        return 130
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = context and f"`{context.command_path} --help` shows what it takes"
        if _speaks(error):
            complain(error.format_message(), hint)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        if not _speaks(error):
            return int(getattr(error, "exit_code", 1))
        hint = getattr(error, "hint", None)
        if isinstance(error, CompressError) or hasattr(error, "exit_code"):
            complain(str(error), hint)
            return int(getattr(error, "exit_code", 1))
        complain(
            f"{type(error).__name__}: {error}".splitlines()[0],
            "this is our mistake: please report it with the output of --debug",
        )
        return 1
    return 0


def _speaks(error: Exception) -> bool:
    """Whether it is this process that tells of it, where several failed alike or together."""
    if isinstance(error, ToldError):
        return False
    try:
        return launched().speaks or hasattr(error, CLAIMED)
    except UsageError:
        return True


def _shape(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"shape `{text}` is not three numbers", "channels, height, width, as in 3,224,224")
    channels, height, width = (int(part) for part in parts)
    return channels, height, width


def _batches(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"batch `{text}` is no list of numbers", "as in --batch 1,8")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _stdout() -> Any:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)
