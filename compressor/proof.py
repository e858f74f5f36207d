"""The proof of a cut: the smaller network equals the teacher with the removed channels silenced.

Both run in float64, where rounding is some sixteen digits down and a mistake in the coupling of two
layers is not. They are compared as they would be used, and once more with batch norms on the
statistics of the batch: in an untrained or badly scaled network the signal may have faded to nothing
before the last layer, and two nothings are always equal. Part of every run, not only of the tests.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from compressor.budget.plan import Plan
from compressor.cutting import silence
from compressor.errors import CompressError

TOLERANCE = 1e-9
"""Relative to the largest output. Another order of sums costs 1e-15 a layer, a wrong channel far more."""


@dataclass(frozen=True)
class Check:
    """One equality: how far apart the two sides were, and how far they may be."""

    name: str
    passed: bool
    max_abs_error: float
    tolerance: float
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; JSON has no infinity, so that becomes null."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


def check_cut(
    teacher: nn.Module, student: nn.Module, plan: Plan, inputs: tuple[Tensor, ...]
) -> tuple[Check, ...]:
    """Compare ``student`` with the silenced ``teacher`` on ``inputs``."""
    reference, candidate = (
        _in_float64(network) for network in (silence(teacher, plan), copy.deepcopy(student))
    )
    wide = tuple(tensor.cpu().double() if tensor.is_floating_point() else tensor.cpu() for tensor in inputs)
    checks = [_compare("cut equals silenced teacher", reference, candidate, wide)]
    norms = [module for network in (reference, candidate) for module in _batch_norms(network)]
    if norms:
        for norm in norms:
            norm.train()
        checks.append(
            _compare("cut equals silenced teacher, on batch statistics", reference, candidate, _enough(wide))
        )
    return tuple(checks)


def _enough(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """At least four samples: where fewer were given, noisy copies of the first are added.

    Of two values a batch norm leaves little but their sign, so that rounding is amplified without bound.
    """
    missing = 4 - len(inputs[0])
    if missing <= 0:
        return inputs
    random = torch.Generator().manual_seed(0)
    more = []
    for tensor in inputs:
        extra = tensor[:1].expand(missing, *tensor.shape[1:])
        if tensor.is_floating_point():
            spread = tensor.std() if tensor.numel() > 1 else torch.ones(())
            extra = extra + (spread + 0.1) * torch.randn(extra.shape, generator=random, dtype=tensor.dtype)
        more.append(torch.cat([tensor, extra]))
    return tuple(more)


def require(checks: Iterable[Check]) -> None:
    """Return if all passed; stop the run if one did not."""
    for check in checks:
        if not check.passed:
            raise CompressError(
                f"{check.name}: largest difference {check.max_abs_error:.3g}, rounding explains "
                f"{check.tolerance:.3g}" + (f" ({check.detail})" if check.detail else ""),
                "nothing was exported; please report the network, this must not happen",
            )


def _compare(name: str, reference: nn.Module, candidate: nn.Module, inputs: tuple[Tensor, ...]) -> Check:
    expected = _run(
        reference,
        inputs,
        "the network does not run in float64",
        "its forward pass must not convert to another precision (`.float()`); use its weights' own dtype",
    )
    found = _run(
        candidate,
        inputs,
        "the cut network does not run",
        "its forward pass fixes a size in Python; name the layer in budget.ignore to leave it whole",
    )
    tolerance = TOLERANCE * _largest(expected)
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in found]:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in found)
        return Check(name, False, float("inf"), tolerance, f"its outputs have the shapes {shapes}")
    worst = _largest([one - other for one, other in zip(expected, found, strict=True)])
    detail = "" if tolerance else "all outputs are zero, which proves nothing"
    # A comparison with NaN is false, so that a network that yields NaN does not pass.
    return Check(name, worst <= tolerance, worst, tolerance, detail)


def _in_float64(network: nn.Module) -> nn.Module:
    return network.cpu().double().eval()


def _batch_norms(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def _largest(tensors: list[Tensor]) -> float:
    """The largest absolute value; NaN if there is one anywhere, which Python's own `max` would lose."""
    return float(torch.cat([tensor.abs().double().flatten() for tensor in tensors]).max())


def _run(network: nn.Module, inputs: tuple[Tensor, ...], failure: str, hint: str) -> list[Tensor]:
    try:
        with torch.no_grad():
            result = network(*inputs)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CompressError(f"{failure}: {reason}", hint) from error
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
