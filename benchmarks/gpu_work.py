"""A little of everything that the kernel does, for compute-sanitizer; and what this GPU is called.

    compute-sanitizer --tool memcheck python benchmarks/gpu_work.py
    python benchmarks/gpu_work.py --about

Sizes that do not fill a tile, both kinds of loads, all number types, accumulation, both layouts of activations. The
sums are compared with the plain formulas, so that a run that computed nothing does not pass.
"""

from __future__ import annotations

import argparse
import re
import sys
import time

import torch
from torch import Tensor

from compressor.pruning.scoring.kernels import cuda, reference

SHAPES = [(65, 33, 3, 3), (40, 24, 1, 1), (130, 520), (1000,), (3, 1, 5, 5)]
MOMENTS = ("wg", "abs_wg", "wg2", "w2", "abs_w")
GATES = [((3, 5, 7, 7), 1), ((2, 8, 80, 80), 1), ((2, 300, 40), 2)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", action="store_true", help="print a short name of the GPU and stop")
    parser.add_argument("--about", action="store_true", help="print what is here and stop")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"no GPU to work on: {cuda.why_not()}", file=sys.stderr)
        return 1
    name = torch.cuda.get_device_name().lower().removeprefix("nvidia ")
    if asked.name:
        print(re.sub(r"[^a-z0-9]+", "-", name).strip("-"))
        return 0
    if asked.about:
        started = time.perf_counter()
        reason = cuda.why_not()
        print(f"{name}, {cuda.described('cuda')}, torch {torch.__version__}, CUDA {torch.version.cuda}")
        print(f"kernel: {reason or 'can be used'}, known after {time.perf_counter() - started:.2f} s")
        return 0 if reason is None else 1
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        work(dtype)
    torch.cuda.synchronize()
    print("every sum is that of the plain formulas")
    return 0


def work(dtype: torch.dtype) -> None:
    weights = [torch.randn(shape, device="cuda").to(dtype) for shape in SHAPES]
    gradients = [torch.randn(shape, device="cuda").to(dtype) for shape in SHAPES]
    axes = [(number, axis) for number, shape in enumerate(SHAPES) for axis in range(min(2, len(shape)))]
    for moments in (("wg",), ("w2",), MOMENTS):
        found = cuda.weight_sums(weights, gradients, axes, moments)
        cuda.weight_sums(weights, gradients, axes, moments, into=found)
        for values, (number, axis) in zip(found, axes, strict=True):
            weight, gradient = weights[number].cpu(), gradients[number].cpu()
            agree(values, 2 * reference.weight_sums(weight, gradient, axis, moments))
    for shape, channel in GATES:
        activation, gradient = (torch.randn(shape, device="cuda").to(dtype) for _ in range(2))
        layouts = [torch.contiguous_format] + [torch.channels_last] * (len(shape) == 4)
        for layout in layouts:
            found_gates = cuda.gate_sums(activation.to(memory_format=layout), gradient, channel)
            agree(found_gates, reference.gate_sums(activation.cpu(), gradient.cpu(), channel))


def agree(found: Tensor, expected: Tensor) -> None:
    # Sums of random signs: the error goes with the sum of magnitudes, here at most some thousands.
    torch.testing.assert_close(found.double().cpu(), expected, rtol=1e-4, atol=1e-2)


if __name__ == "__main__":
    sys.exit(main())
