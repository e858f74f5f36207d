"""``compress profile``."""

from __future__ import annotations

from typing import Any

import click

from compressor.cli.command import Command
from compressor.cli.values import TRUST_HELP, names, numbers, print_json, shape_from, stdout

SECONDS_OF_A_BATCH = 30.0
"""Longer than in a run, of which measuring is only a part."""


@click.command(
    cls=Command,
    short_help="Measure a network or a file, or compare two.",
    example="compress profile teacher.onnx student.onnx --runtime ort",
    page="profiling",
)
@click.argument("subject")
@click.argument("other", required=False)
@click.option("--shape", default=None, help="Sizes of one input, as in 3,224,224.")
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
    recipe = ProfileRecipe(runtimes=runtime or (), batches=batches, budget_s=SECONDS_OF_A_BATCH, **options)
    subjects = [subject, other] if other else [subject]
    result = profile_subjects(subjects, shape_from(shape), recipe, trust=trust, layers=layers)
    print_json(result.to_dict()) if as_json else print_profile(result, stdout())
