"""Compare the outputs of both sides: names, types, shapes, and the difference on the same random inputs.

A program that uses a file needs the same outputs in the next one, so a changed interface fails. Different *numbers*
are right for a pruned network and wrong for one that was only exported again: they are always reported, and fail only
if they exceed a limit. Random inputs are no real data: the share of equal arg-maxes is no accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from compressor.commands.check.exact import Finding
from compressor.commands.check.random_inputs import Array, random_feed, refuse_other_inputs, run_finite
from compressor.commands.check.sides import Side
from compressor.exporting import open_session

INPUTS = 8
INTERFACE = "outputs of another name, type or shape"
ERROR = "output error, of the largest output"

Outputs = Mapping[str, Array]


def compare_outputs(baseline: Side, candidate: Side, most: float | None, batch: int = 1) -> list[Finding]:
    """Run both sides on ``INPUTS`` seeded inputs. ``most``: the allowed error; None only reports it."""
    if baseline.file is None or candidate.file is None:
        return []
    first, second = (open_session(side.file) for side in (baseline, candidate) if side.file is not None)
    refuse_other_inputs(first, second)
    pairs: list[tuple[Outputs, Outputs]] = []
    for seed in range(INPUTS):
        feed = random_feed(first, batch, seed)
        pairs.append((run_finite(first, feed), run_finite(second, feed)))
        if seed == 0 and (interface := list(_interface(*pairs[0]))):
            return [Finding(INTERFACE, False, 0, len(interface), 0, "; ".join(interface))]
    error = max((_error(pairs, name) for name in pairs[0][0]), default=0.0)
    return [
        Finding(INTERFACE, True, 0, 0, 0),
        Finding(ERROR, most is None or error <= most, 0, error, most, _agreement(pairs)),
    ]


def _interface(before: Outputs, after: Outputs) -> Iterator[str]:
    """Describe each output that differs. Outputs are read by name, so another order is no difference."""
    for name in sorted({*before, *after}):
        descriptions = [_described(outputs.get(name)) for outputs in (before, after)]
        if descriptions[0] != descriptions[1]:
            yield f"`{name}` {descriptions[0]} → {descriptions[1]}"


def _described(value: Array | None) -> str:
    return "missing" if value is None else f"{value.dtype} {list(value.shape)}"


def _error(pairs: list[tuple[Outputs, Outputs]], name: str) -> float:
    """Largest difference over all inputs, as a share of the baseline's largest magnitude.

    For outputs that are no numbers it is 1 if any differs, else 0. If the baseline is all zeros, the scale is 1.
    """
    both = [(before[name], after[name]) for before, after in pairs]
    if both[0][0].dtype.kind not in "fiub":
        return float(any((before != after).any() for before, after in both))
    numbers = [(_wide(before), _wide(after)) for before, after in both]
    error = max(_largest(before - after) for before, after in numbers)
    return error / (max(_largest(before) for before, _ in numbers) or 1.0)


def _wide(value: Array) -> Array:
    """Convert to float64, so that the difference is not rounded again."""
    return value.astype(np.float64)


def _largest(value: Array) -> float:
    return float(np.abs(value).max(initial=0.0))


def _agreement(pairs: list[tuple[Outputs, Outputs]]) -> str:
    """Sentence with the share of equal arg-maxes in the first output that has classes."""
    name = next((name for name, value in pairs[0][0].items() if _has_classes(value)), None)
    if name is None:
        return ""
    same: list[Any] = []
    for before, after in pairs:
        same.extend((_top(before[name]) == _top(after[name])).flat)
    return f"arg-max of `{name}` the same in {np.mean(same):.0%} of {len(same)}, on random inputs"


def _has_classes(value: Array) -> bool:
    return value.dtype.kind in "fiu" and value.ndim > 1 and value.shape[1] > 1 and value.size > 0


def _top(value: Array) -> Array:
    return np.asarray(value.argmax(axis=1))
