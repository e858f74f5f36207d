"""In which numbers losses are computed: at least float32, whatever autocast made of what they are given.

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
    """The loss with its floating tensors widened and autocast off."""

    @wraps(loss)
    def run(*given: Any, **named: Any) -> Tensor:
        tensors = [each for each in (*given, *named.values()) if isinstance(each, Tensor)]
        with torch.autocast(tensors[0].device.type, enabled=False):
            return loss(
                *(_widened(each) for each in given), **{key: _widened(value) for key, value in named.items()}
            )

    return run  # type: ignore[return-value]


def _widened(given: Any) -> Any:
    if not isinstance(given, Tensor) or not given.is_floating_point():
        return given
    return given.to(torch.promote_types(given.dtype, torch.float32))


def need_equal_shapes(student: Tensor, teacher: Tensor) -> None:
    """Refuse logits of other classes."""
    if student.shape != teacher.shape:
        raise CompressError(
            f"the student answers with {tuple(student.shape)} logits, the teacher with {tuple(teacher.shape)}",
            "a teacher and its student must tell the same classes apart",
        )


def rows(features: Tensor) -> Tensor:
    """One row for each image: (N, C, H, W) flattened as IFM and its followers do."""
    return features.flatten(1)
