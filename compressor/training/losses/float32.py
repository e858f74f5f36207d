"""Compute losses in at least float32 under autocast.

In bf16 the terms of a softmax over many classes, and the differences of a kernel's probabilities, are lost to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from compressor.errors import CompressError

Loss = TypeVar("Loss", bound=Callable[..., Tensor])


def wide(loss: Loss) -> Loss:
    """Decorate a loss: floating-point inputs become at least float32, and autocast is off."""

    @wraps(loss)
    def run(*args: Any, **named: Any) -> Tensor:
        tensors = [value for value in (*args, *named.values()) if isinstance(value, Tensor)]
        with torch.autocast(tensors[0].device.type, enabled=False):
            return loss(
                *(_widened(value) for value in args), **{key: _widened(value) for key, value in named.items()}
            )

    return run  # type: ignore[return-value]


def _widened(value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return value.to(torch.promote_types(value.dtype, torch.float32))


def need_equal_shapes(student: Tensor, teacher: Tensor) -> None:
    """Raise an error if the two logits differ in shape."""
    if student.shape != teacher.shape:
        raise CompressError(
            f"the student's logits have shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}",
            "use a teacher with the same classes as the student",
        )


def rows(features: Tensor) -> Tensor:
    """One row for each image: (N, C, H, W) flattened, as in IFM and later methods."""
    return features.flatten(1)
