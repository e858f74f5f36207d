"""How much a channel matters: each criterion is a formula over the slots of a group.

A slot gives, for every unit, the numbers that leave the network with it: a row of a weight, a column of
the next one, an entry of a norm. A criterion turns a parameter (and the gradients of some batches,
where it asks for them) into one number per index of an axis; a unit's score is the sum over its indices and
slots. ``CRITERIA`` is the whole list. Running statistics are no parameters and are never scored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Formula = Callable[[str, Tensor, Tensor | None, int], Tensor | None]
"""(kind of parameter, value, gradient, axis) -> one number per index, or None where it has no say."""


@dataclass(frozen=True)
class Criterion:
    """A formula, what it needs, and how scores of different groups are made comparable.

    ``normalise`` is ``mean`` where only the order inside a group means something, else ``none``. A weight's size
    depends on its fan-in. A change of the loss is comparable in itself, but a first-order one is trustworthy only for
    small changes: one threshold over the raw values emptied early layers of the built-in network and kept late ones
    whole, and after training the student was worse.
    """

    formula: Formula
    needs_gradients: bool
    normalise: str


def magnitude(power: int) -> Formula:
    """``sum |w|^p`` over the weights that a channel is made of and read by (Li et al. 2017 for p = 1)."""

    def formula(kind: str, value: Tensor, gradient: Tensor | None, axis: int) -> Tensor | None:
        return _over_others(value.abs() ** power, axis) if value.dim() > 1 else None

    return formula


def bn_scale(kind: str, value: Tensor, gradient: Tensor | None, axis: int) -> Tensor | None:
    """``|gamma|`` of the batch norm behind a channel (Liu et al. 2017, network slimming)."""
    return value.abs() if kind == "batch_norm.weight" else None


def taylor(kind: str, value: Tensor, gradient: Tensor | None, axis: int) -> Tensor | None:
    """``|sum w * dL/dw|``: the first-order change of the loss when these weights become zero.

    Molchanov et al. 2017, equation 7, for the weights of a slot instead of a feature map; averaged over batches by
    the caller, which hands in one batch's gradient at a time.
    """
    return None if gradient is None else _over_others(value * gradient, axis).abs()


def _over_others(value: Tensor, axis: int) -> Tensor:
    dims = [dim for dim in range(value.dim()) if dim != axis]
    return value.sum(dims) if dims else value


CRITERIA: dict[str, Criterion] = {
    "l1": Criterion(magnitude(1), False, "mean"),
    "l2": Criterion(magnitude(2), False, "mean"),
    "bn-scale": Criterion(bn_scale, False, "mean"),
    "taylor": Criterion(taylor, True, "mean"),
}
