"""Repair a freshly cut network: fit each of its layers to its teacher by least squares, in the order of execution.

    W, b  minimise  |Y − W X − b|² + λ |W − W₀|²     over some hundred images

X is what the layer reads in the **student**, whose layers before it are fitted already; Y is what it gives out in the
**teacher**, at the channels that remain. Where its output goes into a sum whose other part has drifted, the drift is
made good: Y + (other_T − other_S) / f, f the factor between layer and sum (a norm's γ/σ). Where an activation is
constant outside a range, Y is put to where the student is, as long as that is on the right side.

The constant goes into the layer's bias, or into the running mean of the norm behind it. In the end every batch norm
is given the statistics of what it really reads, and γ and β that undo the change: what the network computes stays,
and it computes nearly the same with the statistics of a batch, so that training begins where the repair ended.
Measuring statistics anew instead costs two points: a fit gives the mean of what it cannot know, whose variance is
smaller than the teacher's, and a norm with that variance blows up what is uncertain.

Neither labels nor gradients are used. Memory is that of one layer's equations and one batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressor.base.checks import Check
from compressor.errors import CompressError, UsageError
from compressor.models.copying import named_tensors
from compressor.pruning.cutting.sliced import slice_tensor
from compressor.pruning.graph.recording.example import Given, Inputs, from_description, inputs_of
from compressor.pruning.graph.recording.operation import tensors_in
from compressor.pruning.repairing.fitted_layers import Left, Norm
from compressor.pruning.repairing.frontier import Frontier
from compressor.pruning.repairing.lockstep import STUDENT, TEACHER, Batch, Lockstep
from compressor.pruning.repairing.one_layer import LayerError, OneLayer
from compressor.pruning.widths.plan import Plan
from compressor.training.distributed.world import here
from compressor.training.seeds import repeatable

CPU = torch.device("cpu")
BATCH = 32
"""Images that run through the networks at once."""
SAME = 1e-3
"""How far the repaired network's outputs may be from those that were fitted, relative to the largest."""
CUT = "cut"
"""Where a batch's values have what the student gave before it was repaired."""


@dataclass(frozen=True)
class Repaired:
    """The result of a repair. Without help for its outputs (``helped``) the network is as it was cut.

    ``before``, ``after``: the squared error of its outputs, relative to the squares of the teacher's.
    """

    network: nn.Module
    images: int
    layers: tuple[LayerError, ...]
    left: tuple[Left, ...]
    before: float
    after: float
    check: Check

    @property
    def helped(self) -> bool:
        """True if the outputs came nearer to the teacher's."""
        return self.after < self.before

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "images": self.images,
            "helped": self.helped,
            "output_error": {"before": self.before, "after": self.after},
            "layers": [
                {"name": each.layer, "before": each.before, "after": each.after} for each in self.layers
            ],
            "left": [{"name": each.layer, "reason": each.reason} for each in self.left],
        }


def repaired(
    student: nn.Module,
    teacher: nn.Module,
    plan: Plan,
    images: Iterable[tuple[int, Inputs]],
    *,
    device: torch.device = CPU,
    progress: Callable[[float], None] = lambda done: None,
) -> Repaired:
    """A copy of the ``student``, which ``plan`` cut from the ``teacher``, fitted on batches of ``images``.

    Each batch comes with the number of its first image. Of several processes each has a piece of every batch, and all
    get the same network.
    """
    _require_plan(student, teacher, plan)
    before = copy.deepcopy(student).to(device).eval()
    network = copy.deepcopy(before)
    fixed = copy.deepcopy(teacher).to(device).eval()
    inputs = from_description(plan.inputs)
    with torch.no_grad(), Frontier() as frontier, repeatable(device):
        both = Lockstep(fixed, network, plan, inputs, frontier)
        example = None
        for first, batch in images:
            given = batch.map(lambda tensor: tensor.to(device))
            _require_images(given, inputs, first)
            both.add(given, first, {CUT: dict(enumerate(_outputs(before, given)))})
            example = example or given
        if example is None:
            raise UsageError("a repair needs images, and there are none")
        layers = both.any_recorded.layers
        norms = _Norms(layers.norms)
        errors: list[LayerError] = []
        for number, fit in enumerate(layers.fits):
            progress(number / len(layers.fits))
            batches = both.advanced(fit.step + 1, fit.step, norms.look)
            errors.append(OneLayer(both, number).fitted(batches))
        before_and_after, first_outputs = _finish(both, norms)
        norms.write(both.tensors[STUDENT])
        check = _same(first_outputs, _outputs(network, example))
    chosen = network if before_and_after[1] < before_and_after[0] else before
    return Repaired(chosen, both.total_images, tuple(errors), layers.left, *before_and_after, check)


def numbered(images: Given | Iterable[Given]) -> Iterator[tuple[int, Inputs]]:
    """Batches with the number of their first image: of one input that holds all of them, or of several."""
    batches: Iterable[Given | Inputs] = images  # type: ignore[assignment]
    if isinstance(images, Tensor | tuple | Mapping):
        batches = _batches(images)
    first = 0
    for each in batches:
        inputs = inputs_of(each)
        yield first, inputs
        first += int(inputs.tensors[0].shape[0])


def _batches(given: Tensor | tuple[Any, ...] | Mapping[str, Any]) -> Iterator[Inputs]:
    """An input in pieces of `BATCH`; tensors of it that are not so many stay whole."""
    if isinstance(given, Tensor) and not len(given):
        return
    inputs = inputs_of(given)
    count = len(inputs.tensors[0])
    for start in range(0, count, BATCH):
        part = slice(start, start + BATCH)
        yield inputs.map(lambda tensor, part=part: tensor[part] if len(tensor) == count else tensor)  # type: ignore[misc]


def _finish(both: Lockstep, norms: _Norms) -> tuple[tuple[float, float], list[Tensor]]:
    """Run to the end: the relative errors of the student's outputs as cut and now, and those of the first batch."""
    steps = len(both.any_recorded.steps)
    first: list[Tensor] | None = None
    squares: Tensor | None = None  # for every output: of the teacher's, of the error as cut, of the error now
    for batch, values in both.advanced(steps, steps, norms.look):
        recording = batch.recorded.walked.recording
        theirs, ours = (
            [both.read(batch.recorded, meta, side, values[side]) for meta in recording.outputs]
            for side in (TEACHER, STUDENT)
        )
        cut = [values[CUT][place] for place in range(len(ours))]
        rows = [
            torch.stack([_squares(one), _squares(was - one), _squares(now - one)])
            for one, was, now in zip(theirs, cut, ours, strict=True)
            if one.is_floating_point()
        ]
        found = torch.stack(rows) if rows else torch.zeros(1, 3, dtype=torch.float64)
        squares = found if squares is None else squares + found
        first = [tensor.clone() for tensor in ours] if first is None else first
    assert squares is not None
    assert first is not None
    squares = here().total(squares)
    if not squares.isfinite().all():
        raise CompressError(
            "cannot repair: outputs are not finite",
            "check the weights, and that images are normalised as they should be",
        )
    relative = squares[:, 1:] / squares[:, :1].clamp_min(1e-30)
    was, now = relative.mean(0).tolist()
    return (was, now), first


class _Norms:
    """Statistics of the input of every batch norm of the student: sums and sums of squares by channel."""

    def __init__(self, norms: tuple[Norm, ...]) -> None:
        self._norms = {norm.step: norm for norm in norms}
        self._sums: dict[int, list[Tensor]] = {}

    def look(self, batch: Batch, number: int, x: Tensor) -> None:
        """Note what the student's step reads, if it is a norm."""
        if number not in self._norms:
            return
        dims = [dim for dim in range(x.dim()) if dim != 1]
        values = x.double()  # in float32 a variance much smaller than the squared mean would be lost
        count = torch.full_like(values[:1].sum(dims), values.numel() / values.shape[1])
        found = [values.sum(dims), values.square().sum(dims), count]
        if number in self._sums:
            found = [one + other for one, other in zip(self._sums[number], found, strict=True)]
        self._sums[number] = found

    def write(self, own: dict[str, Tensor]) -> None:
        """Give the norms these statistics, and the scale and shift with which they compute what they did."""
        for number, norm in self._norms.items():
            total, squares, count = (here().total(each) for each in self._sums[number])
            if norm.weight is None or norm.bias is None:
                continue  # nothing that could undo the change
            mean = total / count
            variance = (squares / count - mean.square()).clamp_min(0) * count / (count - 1).clamp_min(1)
            old_mean, old_variance = own[norm.mean].double(), own[norm.variance].double()
            old = own[norm.weight].double() * (old_variance + norm.epsilon).rsqrt()
            own[norm.bias].add_((old * (mean - old_mean)).to(own[norm.bias].dtype))
            own[norm.weight].copy_(old * (variance + norm.epsilon).sqrt())
            own[norm.mean].copy_(mean)
            own[norm.variance].copy_(variance)


def _same(fitted: list[Tensor], found: list[Tensor]) -> Check:
    """Whether the network computes what was fitted: that the steps which were fitted are the network's."""
    pairs = [(one.double(), other.double()) for one, other in zip(fitted, found, strict=True) if one.numel()]
    largest = max((float(one.abs().max()) for one, _ in pairs), default=0.0)
    error = max((float((one - other).abs().max()) for one, other in pairs), default=0.0)
    return Check("repaired network computes what was fitted", error <= SAME * largest, error, SAME * largest)


def _squares(tensor: Tensor) -> Tensor:
    return tensor.double().square().sum()


def _outputs(network: nn.Module, inputs: Inputs) -> list[Tensor]:
    return tensors_in(network(*inputs.args, **inputs.kwargs))


def _require_images(given: Inputs, expected: Inputs, first: int) -> None:
    """Images of the shape that the plan was made with, all of them numbers."""
    shapes = [tuple(tensor.shape[1:]) for tensor in given.tensors]
    wanted = [tuple(tensor.shape[1:]) for tensor in expected.tensors]
    if shapes != wanted:
        found, due = (", ".join(map(str, each)) for each in (shapes, wanted))
        raise UsageError(
            f"cannot repair on images of shape {found}: the plan was made with {due}",
            "give images of that shape, or trace and plan with these",
        )
    for tensor in given.tensors:
        if tensor.is_floating_point() and not tensor.isfinite().all():
            bad = next(place for place, image in enumerate(tensor) if not image.isfinite().all())
            raise UsageError(f"cannot repair: image {first + bad} has values that are not finite")


def _require_plan(student: nn.Module, teacher: nn.Module, plan: Plan) -> None:
    """The plan is for this teacher, and the student was cut by it."""
    if plan.inputs is None or plan.earlier is not None:
        raise UsageError(
            "cannot repair by a plan that was made in several steps", "repair after each of them"
        )
    large, small = named_tensors(teacher), named_tensors(student)
    for name in plan.slices:
        if name not in large:
            raise UsageError(f"cannot repair: the plan cuts `{name}`, which the teacher does not have")
        if name not in small:
            continue  # nothing reads it any more
        expected = tuple(slice_tensor(name, large[name], plan).shape)
        if tuple(small[name].shape) != expected:
            raise UsageError(
                f"cannot repair: `{name}` of the student is {tuple(small[name].shape)}, the plan leaves {expected}",
                "give the student that this plan cut from this teacher",
            )
