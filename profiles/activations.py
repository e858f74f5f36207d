"""The memory that a network's intermediate results need at once: its peak, and its height while each layer runs.

Defined on an abstract list of steps, so that a module and a file are counted by one definition:

- a tensor is there from the step that writes it to the last that reads it; the network's results stay to the end;
- the input counts while it is needed, and is never overwritten: it belongs to the caller;
- a view (reshape, slice, transpose, expand) costs nothing, and keeps alive what it looks at;
- an elementwise step (activation, batch norm in inference, sum) overwrites an input of the same size that dies there;
- two elementwise steps, one right after the other, are one where the tensor between them is read by the second alone:
  an exporter writes SiLU as two operators, a framework as one, and the memory is the same;
- an output that nobody reads is not written (the indices of a pooling, the statistics of a norm).

Weights do not count, nor what is computed from weights and sizes alone. Left out: what kernels need while they work
(unfolded patches, tiles), padding, and what an allocator keeps. A runtime may take more, and less
where it copies a part to let go of the whole; a GPU's own peak is measured, in ``cuda``.

A module and its file agree byte for byte where both consist of the same operators: over convolutional networks always,
so far. They differ where an exporter writes an operation in other pieces than the framework runs: attention (ViT-B/16:
6.1 MB in the module, 4.9 MB in the file), and recurrent layers, which are one operator in a file. ONNX Runtime, by its
own account and unoptimised, takes for ResNet-18, MobileNetV2 and SqueezeNet exactly what is counted here, 2.4 times
as much for EfficientNet-B0, and 0.83 times for ShuffleNetV2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

Buffer = Hashable


@dataclass(frozen=True)
class Step:
    """One operator that works on data: its layers, the buffers that it reads, and the new ones that it writes."""

    layers: tuple[Hashable, ...]
    reads: frozenset[Buffer]
    writes: frozenset[Buffer]
    elementwise: bool = False


@dataclass(frozen=True)
class Activations:
    """Bytes: the most that lives at once, and the most that lives while each layer runs."""

    peak: int
    by_layer: Mapping[Hashable, int]


def activations(
    steps: Iterable[Step], sizes: Mapping[Any, int], given: Iterable[Buffer], kept: Iterable[Buffer]
) -> Activations:
    """Walk the steps in their order. ``given`` are the network's inputs, ``kept`` its results."""
    given, kept = frozenset(given), frozenset(kept)
    walked = _joined(_without_unread(list(steps), kept), sizes, kept)
    last = {buffer: at for at, step in enumerate(walked) for buffer in step.reads | step.writes}
    living = sum(sizes[buffer] for buffer in given if buffer in last or buffer in kept)
    peak, by_layer = living, dict[Hashable, int]()
    for at, step in enumerate(walked):
        written = sum(sizes[buffer] for buffer in step.writes)
        dying = {buffer for buffer in step.reads | step.writes if last[buffer] == at} - kept
        overwritten = step.elementwise and any(
            sizes[buffer] == written for buffer in (dying & step.reads) - given
        )
        height = living + (0 if overwritten else written)
        for layer in step.layers:
            by_layer[layer] = max(by_layer.get(layer, 0), height)
        peak = max(peak, height)
        living += written - sum(sizes[buffer] for buffer in dying)
    return Activations(peak, by_layer)


def _without_unread(steps: Sequence[Step], kept: frozenset[Buffer]) -> list[Step]:
    read = kept.union(*(step.reads for step in steps))
    return [replace(step, writes=step.writes & read) for step in steps]


def _joined(steps: Sequence[Step], sizes: Mapping[Any, int], kept: frozenset[Buffer]) -> list[Step]:
    """Elementwise neighbours as one step, where only the second reads what the first writes."""
    readers = Counter(buffer for step in steps for buffer in step.reads)
    joined: list[Step] = []
    for step in steps:
        while joined and _feeds_only(joined[-1], step, readers, sizes, kept):
            before = joined.pop()
            step = Step(
                (*before.layers, *step.layers), before.reads | step.reads - before.writes, step.writes, True
            )
        joined.append(step)
    return joined


def _feeds_only(
    first: Step,
    second: Step,
    readers: Mapping[Buffer, int],
    sizes: Mapping[Any, int],
    kept: frozenset[Buffer],
) -> bool:
    if not (first.elementwise and second.elementwise and len(first.writes) == len(second.writes) == 1):
        return False
    (between,), (after,) = first.writes, second.writes
    alone = between in second.reads and readers[between] == 1 and between not in kept
    return alone and sizes[between] == sizes[after]
