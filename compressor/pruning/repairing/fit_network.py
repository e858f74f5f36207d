"""Repair a freshly cut network: fit each of its layers to its teacher by least squares, in the order of execution.

    W, b  minimise  |Y − W X − b|² + λ |W − W₀|²     over some hundred images

X is the layer's input in the **student**, whose earlier layers are fitted already; Y is its output in the **teacher**,
at the remaining channels. Where the output goes into a sum whose other part has drifted, the target corrects the
drift: Y + (other_T − other_S) / f, f the factor between layer and sum (a norm's γ/σ). Where an activation is
constant outside a range, Y is set to the student's value, as long as that is on the correct side of the range.

The constant goes into the layer's bias, or into the running mean of the norm after it. At the end every batch norm
gets the statistics of its real input, and γ and β that undo this change: the network's outputs stay the same, and are
nearly the same with the statistics of a batch, so that training begins where the repair ended. Measuring the
statistics without changing γ and β costs two points: a fit predicts the mean of everything it cannot know, so its
variance is smaller than the teacher's, and a norm with that variance amplifies what is uncertain.

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
"""Images per batch."""
SAME = 1e-3
"""Largest difference of the repaired network's outputs from the fitted ones, relative to the largest output."""
CUT = "cut"
"""Key of a batch's values for the outputs of the student before its repair."""


@dataclass(frozen=True)
class Repaired:
    """The result of a repair. If it did not improve the outputs (``helped``), the network is as it was cut.

    ``before``, ``after``: the squared error of the outputs, relative to the squares of the teacher's.
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
                {"name": error.layer, "before": error.before, "after": error.after} for error in self.layers
            ],
            "left": [{"name": layer.layer, "reason": layer.reason} for layer in self.left],
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

    Each batch comes with the number of its first image. With several processes, each has a part of every batch, and
    all get the same network.
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
            on_device = batch.map(lambda tensor: tensor.to(device))
            _require_images(on_device, inputs, first)
            both.add(on_device, first, {CUT: dict(enumerate(_outputs(before, on_device)))})
            example = example or on_device
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
    """Batches with the number of their first image, from one input with all images or from several inputs."""
    batches: Iterable[Given | Inputs] = images  # type: ignore[assignment]
    if isinstance(images, Tensor | tuple | Mapping):
        batches = _batches(images)
    first = 0
    for batch in batches:
        inputs = inputs_of(batch)
        yield first, inputs
        first += int(inputs.tensors[0].shape[0])


def _batches(given: Tensor | tuple[Any, ...] | Mapping[str, Any]) -> Iterator[Inputs]:
    """Split an input into batches of `BATCH`; its tensors of another length stay whole."""
    if isinstance(given, Tensor) and not len(given):
        return
    inputs = inputs_of(given)
    count = len(inputs.tensors[0])
    for start in range(0, count, BATCH):
        part = slice(start, start + BATCH)
        yield inputs.map(lambda tensor, part=part: tensor[part] if len(tensor) == count else tensor)  # type: ignore[misc]


def _finish(both: Lockstep, norms: _Norms) -> tuple[tuple[float, float], list[Tensor]]:
    """Run to the end: the relative errors of the student's outputs as cut and now, and its outputs of one batch."""
    steps = len(both.any_recorded.steps)
    first: list[Tensor] | None = None
    squares: Tensor | None = None  # per output, sums of squares: teacher's output, error as cut, error now
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
        of_batch = torch.stack(rows) if rows else torch.zeros(1, 3, dtype=torch.float64)
        squares = of_batch if squares is None else squares + of_batch
        first = [tensor.clone() for tensor in ours] if first is None else first
    assert squares is not None
    assert first is not None
    squares = here().total(squares)
    if not squares.isfinite().all():
        raise CompressError(
            "cannot repair: outputs are not finite",
            "check the weights, and that images are normalised as in the teacher's training",
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
        """Add the input of the student's step to the sums, if the step is a norm."""
        if number not in self._norms:
            return
        dims = [dim for dim in range(x.dim()) if dim != 1]
        values = x.double()  # in float32 a variance much smaller than the squared mean would be lost
        count = torch.full_like(values[:1].sum(dims), values.numel() / values.shape[1])
        sums = [values.sum(dims), values.square().sum(dims), count]
        if number in self._sums:
            sums = [one + other for one, other in zip(self._sums[number], sums, strict=True)]
        self._sums[number] = sums

    def write(self, own: dict[str, Tensor]) -> None:
        """Give the norms these statistics, and the scale and shift with which their outputs stay the same."""
        for number, norm in self._norms.items():
            total, squares, count = (here().total(part) for part in self._sums[number])
            if norm.weight is None or norm.bias is None:
                continue  # without scale and shift the change of the statistics cannot be undone
            mean = total / count
            variance = (squares / count - mean.square()).clamp_min(0) * count / (count - 1).clamp_min(1)
            old_mean, old_variance = own[norm.mean].double(), own[norm.variance].double()
            old = own[norm.weight].double() * (old_variance + norm.epsilon).rsqrt()
            own[norm.bias].add_((old * (mean - old_mean)).to(own[norm.bias].dtype))
            own[norm.weight].copy_(old * (variance + norm.epsilon).sqrt())
            own[norm.mean].copy_(mean)
            own[norm.variance].copy_(variance)


def _same(fitted: list[Tensor], found: list[Tensor]) -> Check:
    """Check that the network computes what was fitted: that the fitted steps are those of the network."""
    pairs = [(one.double(), other.double()) for one, other in zip(fitted, found, strict=True) if one.numel()]
    largest = max((float(one.abs().max()) for one, _ in pairs), default=0.0)
    error = max((float((one - other).abs().max()) for one, other in pairs), default=0.0)
    return Check("repaired network computes what was fitted", error <= SAME * largest, error, SAME * largest)


def _squares(tensor: Tensor) -> Tensor:
    return tensor.double().square().sum()


def _outputs(network: nn.Module, inputs: Inputs) -> list[Tensor]:
    return tensors_in(network(*inputs.args, **inputs.kwargs))


def _require_images(given: Inputs, expected: Inputs, first: int) -> None:
    """Check that the images have the shape that the plan was made with, and that all values are finite."""
    shapes = [tuple(tensor.shape[1:]) for tensor in given.tensors]
    expected_shapes = [tuple(tensor.shape[1:]) for tensor in expected.tensors]
    if shapes != expected_shapes:
        found, due = (", ".join(map(str, sizes)) for sizes in (shapes, expected_shapes))
        raise UsageError(
            f"cannot repair on images of shape {found}: the plan was made with {due}",
            "give images of that shape, or trace and plan with these",
        )
    for tensor in given.tensors:
        if tensor.is_floating_point() and not tensor.isfinite().all():
            bad = next(place for place, image in enumerate(tensor) if not image.isfinite().all())
            raise UsageError(f"cannot repair: image {first + bad} has values that are not finite")


def _require_plan(student: nn.Module, teacher: nn.Module, plan: Plan) -> None:
    """Check that the plan is for this teacher, and that the student was cut by it."""
    if plan.inputs is None or plan.earlier is not None:
        raise UsageError(
            "cannot repair by a plan that was made in several steps", "repair after each of them"
        )
    large, small = named_tensors(teacher), named_tensors(student)
    for name in plan.slices:
        if name not in large:
            raise UsageError(f"cannot repair: the plan cuts `{name}`, which the teacher does not have")
        if name not in small:
            continue  # the student has no use for this tensor
        expected = tuple(slice_tensor(name, large[name], plan).shape)
        if tuple(small[name].shape) != expected:
            raise UsageError(
                f"cannot repair: `{name}` of the student is {tuple(small[name].shape)}, the plan leaves {expected}",
                "give the student that this plan cut from this teacher",
            )
