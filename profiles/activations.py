"""Memory that a network's intermediate results need at once: its peak, and its height while each layer runs.

Defined on an abstract list of steps, so that a module and a file are counted by one definition:

- a tensor exists from the step that writes it to the last that reads it; the network's results stay to the end;
- the input counts while it is needed, and is never overwritten: it belongs to the caller;
- a view (reshape, slice, transpose, expand) costs nothing, and keeps its tensor alive;
- an elementwise step (activation, batch norm in inference, sum) overwrites an input of the same size that ends there;
- two successive elementwise steps are one if only the second reads the tensor between them: an exporter writes SiLU
  as two operators, a framework as one, and the memory is the same;
- an output that no step reads is not written (the indices of a pooling, the statistics of a norm).

Weights do not count, nor do tensors computed from weights and sizes alone. Left out: the working memory of kernels
(unfolded patches, tiles), padding, and memory that an allocator holds. A runtime may take more, or less
where it copies a part to free the whole; the peak of a GPU is measured in ``cuda_timing``.

A module and its file agree byte for byte where both consist of the same operators: over convolutional networks always,
so far. They differ where an exporter splits an operation in another way than the framework: attention (ViT-B/16:
6.1 MB in the module, 4.9 MB in the file), and recurrent layers, which are one operator in a file. ONNX Runtime,
unoptimised, reports exactly this count for ResNet-18, MobileNetV2 and SqueezeNet, 2.4 times as much for
EfficientNet-B0, and 0.83 times for ShuffleNetV2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

Buffer = Hashable


@dataclass(frozen=True)
class Step:
    """One operator on data: its layers, the buffers that it reads, and the new buffers that it writes."""

    layers: tuple[Hashable, ...]
    reads: frozenset[Buffer]
    writes: frozenset[Buffer]
    elementwise: bool = False


@dataclass(frozen=True)
class Activations:
    """Most bytes in use at once, over the whole run and while each layer runs."""

    peak: int
    by_layer: Mapping[Hashable, int]


def activations(
    steps: Iterable[Step], sizes: Mapping[Any, int], inputs: Iterable[Buffer], results: Iterable[Buffer]
) -> Activations:
    """Compute the memory of ``steps`` in their order. ``inputs`` and ``results``: buffers of the network."""
    inputs, results = frozenset(inputs), frozenset(results)
    order = _joined(_without_unread(list(steps), results), sizes, results)
    last = {buffer: at for at, step in enumerate(order) for buffer in step.reads | step.writes}
    # An input that no step reads does not count.
    living = sum(sizes[buffer] for buffer in inputs if buffer in last or buffer in results)
    peak, by_layer = living, dict[Hashable, int]()
    for at, step in enumerate(order):
        written = sum(sizes[buffer] for buffer in step.writes)
        ending = {buffer for buffer in step.reads | step.writes if last[buffer] == at} - results
        overwritten = step.elementwise and any(
            sizes[buffer] == written for buffer in (ending & step.reads) - inputs
        )
        height = living + (0 if overwritten else written)
        for layer in step.layers:
            by_layer[layer] = max(by_layer.get(layer, 0), height)
        peak = max(peak, height)
        living += written - sum(sizes[buffer] for buffer in ending)
    return Activations(peak, by_layer)


def _without_unread(steps: Sequence[Step], kept: frozenset[Buffer]) -> list[Step]:
    read = kept.union(*(step.reads for step in steps))
    return [replace(step, writes=step.writes & read) for step in steps]


def _joined(steps: Sequence[Step], sizes: Mapping[Any, int], kept: frozenset[Buffer]) -> list[Step]:
    """Join successive elementwise steps if only the second one reads the result of the first."""
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
    only_reader = between in second.reads and readers[between] == 1 and between not in kept
    return only_reader and sizes[between] == sizes[after]
