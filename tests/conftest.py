"""With several test processes (``-n``), each of them and what it starts computes with one thread."""

import functools
import os

if os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is first imported

from onnxscript._framework_apis import torch_2_5

# PyTorch builds the table of translations to ONNX anew for every export, which takes longer than a small network's
# export itself. Hundreds of tests export one; the table is the same for all of them.
torch_2_5.get_torchlib_ops = functools.cache(torch_2_5.get_torchlib_ops)
