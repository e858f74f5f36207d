"""Cut an optimizer beside its network, so that pruning may happen in the middle of training.

State with the shape of its parameter is taken to speak of it entry by entry and is sliced with it; a single number
stays. Whatever else an optimizer knows of a parameter that is cut (Adafactor's means of rows and columns, the past
steps of L-BFGS) has no slice that the smaller network would have led to: it is refused, never guessed.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressor.errors import CompressError
from compressor.pruning.widths.plan import Kept, Plan

Match = dict[Tensor, tuple[str, Tensor]]
_PLAIN = (bool, int, float, str, type(None))
_ANEW = "make a new optimizer over the student's parameters; its state begins anew"
_SAME = "the student must be `cut(network, plan)`; move or convert it only afterwards"


def cut_optimizer(optimizer: Optimizer, network: nn.Module, student: nn.Module, plan: Plan) -> Optimizer:
    """The optimizer of ``network`` for ``student = cut(network, plan)``: same groups, state sliced as the weights are.

    Nothing given is changed and no tensor is shared. Hooks stay behind: they may know the old parameters. A learning
    rate scheduler goes on after ``scheduler.optimizer = new``, one made of others after the same for each of those;
    torch then warns, wrongly, of one that has not stepped yet that ``optimizer.step()`` was overridden.
    """
    try:
        own = _own_attributes(optimizer)
        match = _match(optimizer, network, student, plan)
        state: defaultdict[Tensor, dict[Any, Any]] = defaultdict(dict)
        for old, entries in optimizer.state.items():
            name, new = match[old]
            for key, value in entries.items():
                what = f"its `{key}` of `{name}`"
                state[new][key] = _cut_entry(what, value, old, new, plan.slices.get(name, {}))
    except CompressError as error:
        where = f"cannot cut the optimizer `{type(optimizer).__name__}`"
        raise CompressError(f"{where}: {error}", error.hint) from None
    memo = {id(old): new for old, (_, new) in match.items()}
    # One copy of both, since a learning rate that is a tensor is shared between them.
    settings = {"defaults": optimizer.defaults, "param_groups": optimizer.param_groups}
    revived: Optimizer = type(optimizer).__new__(type(optimizer))  # as a pickle does: constructors differ
    revived.__setstate__({**own, **copy.deepcopy(settings, memo), "state": state})
    return revived


def _own_attributes(optimizer: Optimizer) -> dict[str, Any]:
    """Its attributes beside groups and state. A scheduler sets ``step`` on it, which belongs to this optimizer."""
    passed = ("state", "param_groups", "defaults", "step")
    own = {k: v for k, v in vars(optimizer).items() if k not in passed and not k.endswith("_hooks")}
    beside = [name for name, value in own.items() if not isinstance(value, _PLAIN)]
    beside += [str(key) for key in optimizer.state if not isinstance(key, Tensor)]
    if beside:
        raise CompressError(f"it keeps `{beside[0]}` beside the state of each parameter", _ANEW)
    return own


def _match(optimizer: Optimizer, network: nn.Module, student: nn.Module, plan: Plan) -> Match:
    """The optimizer's parameters -> the name, the first if it is tied, and the student's parameter."""
    names: dict[Tensor, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    grouped = (parameter for group in optimizer.param_groups for parameter in group["params"])
    given = dict.fromkeys([*grouped, *optimizer.state])
    if strangers := sum(parameter not in names for parameter in given):
        raise CompressError(
            f"{strangers} of its {len(given)} parameters are not in the network",
            "give the very network it was made for; what is not part of it needs an optimizer of its own",
        )
    found = dict(student.named_parameters(remove_duplicate=False))
    match: Match = {}
    for old in given:
        news = {found[name] for name in names[old] if name in found}
        if len(news) != 1:
            called = " and ".join(f"`{name}`" for name in names[old])
            raise CompressError(f"{called}: the student has {len(news)} such parameters, expected 1", _SAME)
        match[old] = names[old][0], news.pop()
        _check_fit(*match[old], old, plan)
    return match


def _check_fit(name: str, new: Tensor, old: Tensor, plan: Plan) -> None:
    shape = list(old.shape)
    for axis, kept in plan.slices.get(name, {}).items():
        if axis >= old.dim() or not all(0 <= index < old.shape[axis] for index in kept):
            raise CompressError(f"the plan does not fit `{name}` of shape {tuple(old.shape)}", _SAME)
        shape[axis] = len(kept)
    expected = f"{tuple(shape)} {old.dtype} on {old.device}"
    found = f"{tuple(new.shape)} {new.dtype} on {new.device}"
    if found != expected:
        raise CompressError(f"`{name}` of the student is {found}, expected {expected}", _SAME)


def _cut_entry(what: str, value: Any, old: Tensor, new: Tensor, axes: Mapping[int, Kept]) -> Any:
    if type(value) is Tensor and value.shape == old.shape:
        for axis, kept in axes.items():
            value = value.index_select(axis, torch.tensor(kept, device=value.device))
        # Laid out as the parameter is: fused steps on the CPU read both by one offset, whatever the strides.
        return torch.empty_like(new, dtype=value.dtype, device=value.device).copy_(value.detach())
    number = isinstance(value, _PLAIN) or (isinstance(value, Tensor) and value.dim() <= 1 == value.numel())
    if axes and not number:
        found = f"{type(value).__name__} of {tuple(value.shape) if isinstance(value, Tensor) else 'no shape'}"
        raise CompressError(f"{what} is a {found}, expected {tuple(old.shape)} or a number", _ANEW)
    return copy.deepcopy(value)
