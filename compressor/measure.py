"""Teacher and student on the clock, side by side in one process, on every runtime at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressor.recipe import ProfileRecipe
from export import open_session
from profiles import Timing, measure, paired_speedup


def latencies(
    networks: Mapping[str, nn.Module], files: Mapping[str, Path], image: Tensor, recipe: ProfileRecipe
) -> list[dict[str, Any]]:
    """One row per runtime: median and spread of ``teacher`` and ``student``, and their paired ratio."""
    images = image.repeat(recipe.batch, *[1] * (image.dim() - 1)).contiguous()
    array = images.numpy()
    calls: dict[str, Callable[[], object]] = {}
    for who, network in networks.items():
        calls[f"pytorch {who}"] = lambda network=network: network(images)  # type: ignore[misc]
    for who, path in files.items():
        session = open_session(path, threads=recipe.threads)
        feed = {session.inputs[0].name: array}
        calls[f"onnxruntime {who}"] = lambda session=session, feed=feed: session.run(feed)  # type: ignore[misc]
    with _threads(recipe.threads), torch.inference_mode():
        timings = measure(calls, samples=recipe.samples, budget_s=recipe.budget_s)
    return [
        _row(runtime, recipe, {who: timings[f"{runtime} {who}"] for who in who_ran})
        for runtime, who_ran in (("pytorch", networks), ("onnxruntime", files))
        if who_ran
    ]


def _row(runtime: str, recipe: ProfileRecipe, timings: Mapping[str, Timing]) -> dict[str, Any]:
    row: dict[str, Any] = {"runtime": runtime, "batch": recipe.batch, "threads": recipe.threads}
    for who, timing in timings.items():
        row[who] = timing.to_dict()
    if "teacher" in timings and "student" in timings:
        row["speedup"] = paired_speedup(timings["teacher"], timings["student"]).to_dict()
    return row


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
