"""Build the optimizer that a schedule names: any of `torch.optim`, with the settings that it accepts."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from compressor.errors import CompressError, UsageError, unknown_name
from compressor.recipe.schedule import Schedule

Named = Sequence[tuple[str, nn.Parameter]]


def optimizer_for(decayed: Named, kept: Named, schedule: Schedule) -> torch.optim.Optimizer:
    """The optimizer of ``decayed`` and ``kept`` parameters; weight decay applies only to the first.

    Decay keeps a function from growing steep. Biases do not make it steeper, and decay on the scale of a
    norm would pull a channel to zero that pruning has just kept.
    """
    if not any(parameter.requires_grad for _, parameter in (*decayed, *kept)):
        raise CompressError("nothing to train: every parameter of the network is frozen")
    kind = _named(schedule.optimizer)
    accepted = inspect.signature(kind).parameters
    settings: dict[str, Any] = {"lr": schedule.learning_rate}
    if "momentum" in accepted:
        settings["momentum"] = schedule.momentum
    if "nesterov" in accepted:
        settings["nesterov"] = schedule.momentum > 0
    settings |= _own_settings(schedule)
    groups: list[dict[str, Any]] = [
        {"params": [p for _, p in decayed if p.requires_grad], "weight_decay": schedule.weight_decay},
        {"params": [p for _, p in kept if p.requires_grad], "weight_decay": 0.0},
    ]
    try:
        return kind(groups, **settings)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"optimizer `{schedule.optimizer}` refuses its settings: {str(error).splitlines()[0]}",
            "change `optimizer_settings` in the recipe; an example is betas=[0.9, 0.95]",
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


def _own_settings(schedule: Schedule) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for text in schedule.optimizer_settings:
        key, _, value = text.partition("=")
        try:
            parsed = json.loads(value)  # without `=` the value is empty, which is not JSON either
        except ValueError as error:
            raise UsageError(
                f"optimizer setting `{text}` is not NAME=VALUE", "examples: betas=[0.9, 0.95], amsgrad=true"
            ) from error
        settings[key.strip()] = tuple(parsed) if isinstance(parsed, list) else parsed
    return settings
