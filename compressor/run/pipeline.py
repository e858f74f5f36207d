"""A whole run: a sequence of steps, each a function from a `Run` to a `Run`.

    prepare -> start -> teach -> ship -> measure -> report

Each step is in its own file and can be called alone.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from compressor.artifacts.write import formats_of
from compressor.base.device import choose_device
from compressor.base.files import write_atomic, write_json
from compressor.recipe import Recipe
from compressor.run.folder import open_run
from compressor.run.measure import measure
from compressor.run.prepare import check_request, completed, prepare
from compressor.run.progress import Logged
from compressor.run.prune import prune
from compressor.run.report.build import report_of
from compressor.run.report.markdown import to_markdown
from compressor.run.report.report import Report, read_report
from compressor.run.ship import ship
from compressor.run.state import Run
from compressor.run.steps import Listener, Silent, Steps
from compressor.run.teach import teach
from compressor.training.distributed.world import World, join, leave


def compress(recipe: Recipe, out: Path, *, listener: Listener | None = None, fresh: bool = False) -> Report:
    """Run the recipe in the folder ``out``; an interrupted run in that folder continues.

    A finished run is not repeated: its report is read. ``fresh`` ignores the cache of built-in teachers. With several
    processes (torchrun) all train, and only the first writes, in its ``out``; each gets the report.
    """
    with ExitStack() as stack:
        world = stack.enter_context(join(choose_device(recipe.device)))
        # The same code for all processes: the others write to a temporary folder.
        own = out if world.first else Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
        report = _compress(completed(recipe), own, world, listener or Silent(), fresh)
        report = world.from_first(lambda: report)
        assert report is not None
        return report


def _compress(recipe: Recipe, out: Path, world: World, listener: Listener, fresh: bool) -> Report | None:
    """The report, in the first process; the others train with it and return None."""
    check_request(recipe, world)
    formats, left_out = formats_of(recipe.export)
    folder = open_run(out, recipe)
    if world.from_first(folder.report.exists):
        return read_report(folder.report) if world.first else None
    steps = Steps(Logged(listener, folder, world))
    run = Run(recipe, folder, world, steps, formats, left_out, fresh)
    for step in (prepare, start, teach):
        run = step(run)
    if not world.first:
        return None
    leave()
    for step in (ship, measure):
        run = step(run)
    return _report(run)


def start(run: Run) -> Run:
    """Cut the student from the teacher, unless it is a network of the user's own."""
    if run.origin.is_cut:
        return prune(run)
    write_json(
        run.folder.plan, {"schema": 1, "stages": [each.to_dict() for each in run.origin.stages], "fit": None}
    )
    return run


def _report(run: Run) -> Report:
    report = report_of(run)
    with run.steps.step("Report") as step:
        write_atomic(run.folder.report_markdown, to_markdown(report))
        write_json(run.folder.report, report.to_dict())
        step.outcome = run.folder.report.name
    return report
