"""Build the optimizer that a schedule names: any of `torch.optim`, with the settings that it accepts."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from compressor.errors import CompressError, UsageError, unknown_name
from compressor.recipe.optimizer_text import optimizer_of
from compressor.recipe.schedule import Schedule

MOMENTUM = 0.9
"""Of an optimizer that has one, where the recipe says nothing; with Nesterov's step where that is known too."""

Named = Sequence[tuple[str, nn.Parameter]]


def optimizer_for(decayed: Named, kept: Named, schedule: Schedule) -> torch.optim.Optimizer:
    """The optimizer of ``decayed`` and ``kept`` parameters; weight decay applies only to the first.

    Decay keeps a function from growing steep. Biases do not make it steeper, and decay on the scale of a
    norm would pull a channel to zero that pruning has just kept.
    """
    if not any(parameter.requires_grad for _, parameter in (*decayed, *kept)):
        raise CompressError("nothing to train: every parameter of the network is frozen")
    name, given = optimizer_of(schedule.optimizer)
    kind = _named(name)
    accepted = inspect.signature(kind).parameters
    settings: dict[str, Any] = {"lr": schedule.learning_rate}
    if "momentum" in accepted:
        settings["momentum"] = given.get("momentum", MOMENTUM)
    if "nesterov" in accepted:
        settings["nesterov"] = settings["momentum"] > 0
    settings |= given
    groups: list[dict[str, Any]] = [
        {"params": [p for _, p in decayed if p.requires_grad], "weight_decay": schedule.weight_decay},
        {"params": [p for _, p in kept if p.requires_grad], "weight_decay": 0.0},
    ]
    try:
        return kind(groups, **settings)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"optimizer `{schedule.optimizer}` refuses its settings: {str(error).splitlines()[0]}",
            "change distil.schedule.optimizer; examples are `sgd, momentum=0.8` and `adamw, betas=[0.9, 0.95]`",
        ) from error


def _named(name: str) -> Any:
    known = {
        attribute.lower(): getattr(torch.optim, attribute)
        for attribute in dir(torch.optim)
        if inspect.isclass(getattr(torch.optim, attribute))
        and issubclass(getattr(torch.optim, attribute), torch.optim.Optimizer)
        and attribute not in ("Optimizer", "LBFGS", "SparseAdam")  # need a closure, or sparse gradients
    }
    if name.lower() not in known:
        raise unknown_name("optimizer", name, known)
    return known[name.lower()]
