"""What works on files and finished networks: ``compress profile``, ``export`` and ``check``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from compressor.cli.values import TRUST_HELP, names, numbers, print_json, shape_from, stdout


@click.command(short_help="Measure a network or a file, or compare two.")
@click.argument("subject")
@click.argument("other", required=False)
@click.option("--shape", default=None, help="Channels, height, width, as in 3,224,224.")
@click.option(
    "--runtime", callback=names, help="One or several, as in ort,torch,openvino, or all  [default: what fits]"
)
@click.option(
    "--batch", callback=numbers, default="1", show_default=True, help="Images at a time; several as in 1,8."
)
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
    runtime: tuple[str, ...] | None,
    batch: tuple[int, ...],
    layers: bool,
    trust: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure SUBJECT, or compare it with OTHER: each a model name, a student folder, or a file of any format."""
    from compressor.commands.subjects import print_profile, profile_subjects
    from compressor.recipe import ProfileRecipe

    batches = tuple(dict.fromkeys(batch))
    recipe = ProfileRecipe(runtimes=runtime or (), batches=batches, budget_s=30.0, **options)
    subjects = [subject, other] if other else [subject]
    result = profile_subjects(subjects, shape_from(shape), recipe, trust=trust, layers=layers)
    print_json(result.to_dict()) if as_json else print_profile(result, stdout())


@click.command(short_help="Write MODEL as files, and compare each with PyTorch.")
@click.argument("model")
@click.option(
    "--to", callback=names, default="onnx", show_default=True, help="Formats, as in onnx,onnx-int8; or all."
)
@click.option("--out", type=click.Path(path_type=Path), help="The first file to write  [default: beside it]")
@click.option("--weights", help="Weights file, or `pretrained`.")
@click.option("--classes", type=int, help="Number of classes.")
@click.option("--shape", default=None, help="Channels, height, width, as in 3,224,224.")
@click.option("--opset", type=int, help="Operator set  [default: the exporter's own]")
@click.option("--free-size", is_flag=True, help="The ONNX file takes any height and width too.")
@click.option("--data", help="Images to calibrate and test int8 on  [default: those of the run]")
@click.option("--calibration", default="minmax", show_default=True, help="minmax, entropy, percentile.")
@click.option("--int8-weight-bits", type=int, default=7, show_default=True, help="7, or 8 for VNNI and Arm.")
@click.option("--max-accuracy-drop", type=float, default=0.5, show_default=True, help="Points of top-1.")
@click.option(
    "--engine-batches",
    callback=numbers,
    default="1,1,8",
    show_default=True,
    help="Fewest, usual, most images.",
)
@click.option("--workspace-mib", type=int, default=1024, show_default=True, help="Of TensorRT's build.")
@click.option("--tf32", is_flag=True, help="Let TensorRT multiply float32 in TF32.")
@click.option("--trust", is_flag=True, help=TRUST_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def export(
    model: str,
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
    from compressor.base.console import talk
    from compressor.commands.subjects import ExportRequest, export_subject
    from compressor.recipe import ExportRecipe, ModelRecipe
    from compressor.run.report.screen import print_files

    recipe = ExportRecipe(**options)
    subject = ModelRecipe(model, weights or "", trust)
    exported = export_subject(ExportRequest(subject, recipe, classes, shape_from(shape), out, data))
    if as_json:
        print_json(exported.to_dict())
    else:
        for note in dict.fromkeys(exported.notes):
            talk.print(f"warning: {note}", markup=False)
        print_files(exported.proofs, [check for file in exported.files for check in file.checks], stdout())
        for file in exported.files:
            if file.artifact is not None:
                print(file.artifact.path)
    if not exported.passed:
        sys.exit(4)


@click.command(short_help="Is CANDIDATE as small, as fast and as right as BASELINE?")
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
    from compressor.commands.check.command import run_check

    sys.exit(run_check(baseline, candidate, options))
