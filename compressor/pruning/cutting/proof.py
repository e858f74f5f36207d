"""The proof of a cut: the smaller network equals the teacher with the removed channels silenced.

Both run in float64, where rounding is some sixteen digits down and a mistake in the coupling of two
layers is not. They are compared as they would be used, and once more with batch norms on the
statistics of the batch: in an untrained or badly scaled network the signal may have faded to nothing
before the last layer, and two nothings are always equal. Part of every run, not only of the tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.base.checks import Check
from compressor.errors import CompressError
from compressor.models.copying import copy_with, in_float64, named_tensors, require_numbers
from compressor.pruning.cutting.cut import cut
from compressor.pruning.cutting.folding import resting
from compressor.pruning.cutting.program import Program
from compressor.pruning.cutting.silenced import silenced
from compressor.pruning.graph.labelled import Walk, walk
from compressor.pruning.graph.recording.example import Given, Inputs, inputs_of
from compressor.pruning.graph.recording.operation import tensors_in
from compressor.pruning.graph.recording.replay import InFloat64, replay
from compressor.pruning.widths.plan import Plan

TOLERANCE = 1e-9
"""Relative to the largest output. Another order of sums costs 1e-15 a layer, a wrong channel far more."""


def check_cut(
    teacher: nn.Module, student: nn.Module, plan: Plan, inputs: Given, *, folded: bool = False
) -> tuple[Check, ...]:
    """Compare ``student`` with the silenced ``teacher`` on ``inputs``.

    ``folded``: the constants of removed channels are in the student's biases, to the precision of these. Of a plan
    made in several steps the last is compared, with what the steps before it leave as the teacher.
    """
    if plan.earlier is not None:
        return check_cut(
            cut(teacher, plan.earlier), student, plan.within(plan.earlier), inputs, folded=folded
        )
    for network in (teacher, student):
        require_numbers(network)
    tolerance = max(TOLERANCE, 10 * _precision(student)) if folded else TOLERANCE
    proof = _Proof(in_float64(teacher), in_float64(student), plan, folded, tolerance)
    given = _wide(inputs_of(inputs))
    walked = proof.walked(given)
    checks = [proof.recording(walked, given), proof.cut("cut equals silenced teacher", walked, given)]
    if any(operation.operator == "batch_norm" for operation in walked.recording.operations):
        more = given if isinstance(student, Program) and student.only_batch is not None else _enough(given)
        walked = walked if more is given else proof.walked(more)
        norms = proof.take_batch_statistics()
        name = "cut equals silenced teacher, on batch statistics"
        checks.append(proof.cut(name, walked, more, batch_statistics=norms))
    return tuple(checks)


@dataclass(frozen=True)
class _Proof:
    """Both networks in float64."""

    teacher: nn.Module
    student: nn.Module
    plan: Plan
    folded: bool
    tolerance: float

    def walked(self, inputs: Inputs) -> Walk:
        with InFloat64():
            return walk(self.teacher, inputs, whole_heads=self.plan.whole_heads)

    def recording(self, walked: Walk, inputs: Inputs) -> Check:
        """Compare the recording, on which the reference is built, with the teacher."""
        # On a copy, since forward passes may leave caches behind.
        teacher = copy_with(self.teacher, lambda name, tensor: tensor)
        expected = _run(
            lambda: _outputs(teacher, inputs),
            "the network does not run in float64",
            "its forward pass must not convert to another precision; use its weights' own dtype",
        )
        with torch.no_grad(), InFloat64():
            found = replay(walked.recording, named_tensors(self.teacher), inputs.tensors)
        return _compare("recorded network equals teacher", expected, found, TOLERANCE)

    def cut(
        self, name: str, walked: Walk, inputs: Inputs, *, batch_statistics: bool | Collection[str] = False
    ) -> Check:
        tensors, slices = named_tensors(self.teacher), self.plan.slices
        with torch.no_grad(), InFloat64():
            expected = silenced(
                walked,
                slices,
                tensors,
                inputs.tensors,
                batch_statistics=batch_statistics,
                constants=resting(walked, slices, tensors) if self.folded else None,
            )
        found = _run(
            lambda: _outputs(self.student, inputs),
            "the cut network does not run",
            "please report the network, this must not happen",
        )
        return _compare(name, expected, found, self.tolerance)

    def take_batch_statistics(self) -> bool | frozenset[str]:
        """From now on the student's batch norms run as in training. True, or the names of those that do."""
        if isinstance(self.student, Program):
            self.student.batch_statistics = True
            return True
        norms = {
            name: module
            for name, module in self.student.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
        }
        for module in norms.values():
            module.train()
        # Norms that a forward pass calls as functions follow their own module, and frozen ones stay as they are.
        return frozenset(name for name, module in norms.items() if module.training)


def _precision(network: nn.Module) -> float:
    return max((torch.finfo(t.dtype).eps for t in network.parameters() if t.is_floating_point()), default=0.0)


def _wide(inputs: Inputs) -> Inputs:
    return inputs.map(
        lambda tensor: tensor.detach().cpu().double() if tensor.is_floating_point() else tensor.cpu()
    )


def _enough(inputs: Inputs) -> Inputs:
    """At least four samples: where fewer were given, noisy copies of the first are added.

    Of two values a batch norm leaves little but their sign, so that rounding is amplified without bound.
    """
    first = inputs.tensors[0].shape[:1]
    missing = 4 - (first[0] if first else 4)
    if missing <= 0:
        return inputs
    random = torch.Generator().manual_seed(0)

    def more(tensor: Tensor) -> Tensor:
        if tensor.shape[:1] != first:
            return tensor
        extra = tensor[:1].expand(missing, *tensor.shape[1:])
        if tensor.is_floating_point():
            spread = tensor.std() if tensor.numel() > 1 else torch.ones(())
            extra = extra + (spread + 0.1) * torch.randn(extra.shape, generator=random, dtype=tensor.dtype)
        return torch.cat([tensor, extra])

    return inputs.map(more)


def _compare(name: str, expected: list[Tensor], found: list[Tensor], relative: float) -> Check:
    """Each output against its own largest value; what is told is the one that is closest to its limit or over it."""
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in found]:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in found)
        return Check(name, False, float("inf"), 0.0, f"its outputs have the shapes {shapes}")
    pairs = [
        (one.double(), other.double()) for one, other in zip(expected, found, strict=True) if one.numel()
    ]
    limits = [relative * _largest(one) for one, _ in pairs]
    errors = [_largest(one - other) for one, other in pairs]
    if not any(limits):
        return Check(
            name, not any(errors), max(errors, default=0.0), 0.0, "all outputs are zero, which proves nothing"
        )
    # A comparison with NaN is false, so that a network that yields NaN does not pass.
    passed = all(error <= limit for error, limit in zip(errors, limits, strict=True))
    nearest = max(range(len(pairs)), key=lambda i: _share(errors[i], limits[i]))
    return Check(name, passed, errors[nearest], limits[nearest])


def _share(error: float, limit: float) -> float:
    return math.inf if math.isnan(error) or (error and not limit) else error / limit if limit else 0.0


def _largest(tensor: Tensor) -> float:
    """The largest absolute value; NaN if there is one anywhere."""
    return float(tensor.abs().max())


def _outputs(network: nn.Module, inputs: Inputs) -> list[Tensor]:
    with torch.no_grad(), InFloat64():
        return tensors_in(network(*inputs.args, **inputs.kwargs))


def _run(outputs: Callable[[], list[Tensor]], failure: str, hint: str) -> list[Tensor]:
    try:
        return outputs()
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CompressError(f"{failure}: {reason}", hint) from error
