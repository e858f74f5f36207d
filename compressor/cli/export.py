"""``compress export``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from compressor.cli.command import Command
from compressor.cli.values import TRUST_HELP, names, print_json, shape_from, stdout


@click.command(
    cls=Command,
    short_help="Write MODEL as files, and compare each with PyTorch.",
    example="compress export runs/glyphnet-0.7 --to onnx-int8 --out student.onnx",
    page="exporting",
)
@click.argument("model")
@click.option(
    "--to", callback=names, default="onnx", show_default=True, help="Formats, as in onnx,onnx-int8; or all."
)
@click.option("--out", type=click.Path(path_type=Path), help="The first file to write  [default: beside it]")
@click.option("--weights", help="Weights file, or `pretrained`.")
@click.option("--classes", type=int, help="Number of classes.")
@click.option("--shape", default=None, help="Sizes of one input, as in 3,224,224.")
@click.option("--opset", type=int, help="Operator set  [default: the exporter's own]")
@click.option("--free-size", is_flag=True, help="The ONNX file takes any height and width too.")
@click.option("--data", help="Images to calibrate and test int8 on  [default: those of the run]")
@click.option("--int8-weight-bits", type=int, default=7, show_default=True, help="7, or 8 for VNNI and Arm.")
@click.option("--max-accuracy-drop", type=float, default=0.5, show_default=True, help="Points of top-1.")
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
