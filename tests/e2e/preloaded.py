"""What the process that all warm commands are forked from has imported: everything, on one thread."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import torch._dynamo
import torch.onnx

import compressor.api  # noqa: F401

torch.set_num_threads(1)
