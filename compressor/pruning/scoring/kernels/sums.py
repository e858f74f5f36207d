"""Channel sums of weights and gradients, by the CUDA kernel where it runs, else by torch.

This module chooses the backend. ``auto`` takes the CUDA kernel for tensors on a CUDA device and torch for all others;
where the kernel cannot run, torch computes the sums and the reason is part of the result. A backend chosen by name
that cannot run is an error. No CUDA module is imported before the first CUDA tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.errors import CompressError, UsageError, unknown_name
from compressor.pruning.scoring.kernels import reference, torch_sums

BACKENDS = ("auto", "torch", "cuda")
MOMENTS = tuple(reference.MOMENTS)  # sums of w*g, |w*g|, (w*g)^2, w^2, |w|
KERNEL_TYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Choice:
    """The chosen backend; ``fallback`` is the reason why torch replaces the kernel."""

    kernel: bool
    backend: str
    fallback: str | None = None


@dataclass(frozen=True)
class Sums:
    """A float64 tensor ``[moments, channels]`` for each requested (tensor, axis), and the backend."""

    values: list[Tensor]
    backend: str
    fallback: str | None = None


def channel_sums(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor] | None,
    axes: Sequence[tuple[int, int]],
    moments: Sequence[str],
    backend: str = "auto",
) -> Sums:
    """Each moment, summed over every dimension but the axis, for each (number of a tensor, axis) of ``axes``.

    ``gradients`` may be None where all moments are of weights alone.
    """
    _check(weights, gradients, axes, moments)
    used = [weights[number] for number in dict.fromkeys(number for number, _ in axes)]
    choice = choose(used, backend)
    if not axes:
        return Sums([], choice.backend, choice.fallback)
    if not reference.NEED_GRADIENTS.intersection(moments):
        gradients = None
    if choice.kernel:
        from compressor.pruning.scoring.kernels import cuda

        try:
            return Sums(cuda.weight_sums(weights, gradients, axes, moments), choice.backend)
        except CompressError as error:
            choice = _without_kernel(used[0].device, str(error), backend)
    return Sums(torch_sums.weight_sums(weights, gradients, axes, moments), choice.backend, choice.fallback)


def gate_sums(
    activation: Tensor,
    gradient: Tensor,
    channel: int,
    backend: str = "auto",
    fell_back: Callable[[Choice], None] = lambda choice: None,
) -> Tensor:
    """``[samples, channels]``: activation times gradient, summed over every dimension but the first and ``channel``.

    Accumulated in float32 at least. ``choose`` gives the backend beforehand; ``fell_back`` is called if the kernel
    was chosen and then refused.
    """
    if activation.shape != gradient.shape:
        raise CompressError(
            f"an activation of shape {list(activation.shape)} has a gradient of shape {list(gradient.shape)}; "
            "they must be equal"
        )
    if not 0 < channel < activation.dim():
        raise CompressError(
            f"channels in dimension {channel} of an activation of shape {list(activation.shape)}; "
            "the first dimension counts samples, any other may be the channels"
        )
    choice = choose([activation], backend)
    if choice.kernel:
        from compressor.pruning.scoring.kernels import cuda

        try:
            return cuda.gate_sums(activation, gradient, channel)
        except CompressError as error:
            fell_back(_without_kernel(activation.device, str(error), backend))
    return torch_sums.gate_sums(activation, gradient, channel)


def choose(tensors: Sequence[Tensor], backend: str = "auto") -> Choice:
    """The backend for these tensors, which must be on one device."""
    if backend not in BACKENDS:
        raise unknown_name("kernel backend", backend, BACKENDS)
    devices = {tensor.device for tensor in tensors} or {torch.device("cpu")}
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise CompressError(f"the tensors to be summed are on {names}; all must be on one device")
    (device,) = devices
    if backend == "torch" or (backend == "auto" and device.type != "cuda"):
        return Choice(False, f"torch on {device.type}")
    reason = _why_no_kernel(device, tensors)
    return Choice(True, _described(device)) if reason is None else _without_kernel(device, reason, backend)


def _why_no_kernel(device: torch.device, tensors: Sequence[Tensor]) -> str | None:
    if device.type != "cuda":
        return f"the tensors are on {device.type}, and the kernel runs on a CUDA device"
    other = next((tensor.dtype for tensor in tensors if tensor.dtype not in KERNEL_TYPES), None)
    if other is not None:
        return f"the kernel reads float32, float16 and bfloat16, not {str(other).removeprefix('torch.')}"
    from compressor.pruning.scoring.kernels import cuda

    return cuda.why_not()


def _described(device: torch.device) -> str:
    from compressor.pruning.scoring.kernels import cuda

    return cuda.described(device)


def _without_kernel(device: torch.device, reason: str, backend: str) -> Choice:
    if backend == "cuda":
        raise UsageError(
            f"the backend `cuda` cannot run: {reason}",
            "use the backend `auto`, which falls back on torch",
        )
    return Choice(False, f"torch on {device.type}", reason)


def _check(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor] | None,
    axes: Sequence[tuple[int, int]],
    moments: Sequence[str],
) -> None:
    for moment in moments:
        if moment not in MOMENTS:
            raise unknown_name("moment", moment, MOMENTS)
    of_gradients = [moment for moment in moments if moment in reference.NEED_GRADIENTS]
    if of_gradients and gradients is None:
        raise UsageError(
            f"the moment `{of_gradients[0]}` needs gradients, and there are none",
            "run a batch forward and backward, or use `w2` or `abs_w`",
        )
    if gradients is not None and of_gradients and len(gradients) != len(weights):
        raise CompressError(
            f"{len(weights)} weights and {len(gradients)} gradients; there must be one for each"
        )
    for number, axis in axes:
        if not 0 <= number < len(weights):
            raise CompressError(f"there is no tensor {number}: expected 0 to {len(weights) - 1}")
        weight = weights[number]
        if not 0 <= axis < weight.dim():
            raise CompressError(f"tensor {number} of shape {list(weight.shape)} has no axis {axis}")
        if not weight.is_floating_point():
            raise CompressError(
                f"tensor {number} has type {weight.dtype}, expected real floating-point numbers"
            )
        if of_gradients and gradients is not None and gradients[number].shape != weight.shape:
            raise CompressError(
                f"tensor {number} has shape {list(weight.shape)} and its gradient {list(gradients[number].shape)}"
            )
