"""Operators that a program may call: pure ones of ATen and torchvision, and none that harms the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from compressor.pruning.cutting.program_operators import function_named


@pytest.mark.parametrize(
    "name",
    [
        "aten.hann_window.default",
        "aten.gather.default",
        "aten.as_strided.default",
        "aten.rot90.default",
        "aten.affine_grid_generator.default",
        "aten.div.Tensor_mode",
        "torchvision.deform_conv2d.default",
        "batch_norm",
    ],
)
def test_an_operator_that_computes_on_tensors_may_be_called(name: str) -> None:
    assert function_named(name) is not None


@pytest.mark.parametrize(
    "name",
    [
        "aten.save.default",
        "aten.from_file.default",
        "aten.set_.source_Tensor",
        "aten.resize_.default",
        "aten._reshape_alias.default",
        "aten.batch_norm_update_stats.default",
        "aten._cummax_helper.default",
        "aten.empty_strided.default",
        "aten.add.out",
        "aten.record_stream.default",
        "aten._print.default",
        "prims.add.default",
        "aten.convolution_backward.default",
    ],
)
def test_an_operator_that_does_anything_else_may_not(name: str) -> None:
    assert function_named(name) is None


@pytest.mark.slow
def test_no_operator_that_may_be_called_harms_the_process() -> None:
    """Each operator without a rule, on hundreds of random arguments, in a process that may not end by a signal."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.compressor.random_operators"],
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert ran.stdout.endswith("all\n"), f"exit {ran.returncode} in {ran.stdout.splitlines()[-1:]}"
