"""What the process that all warm commands are forked from has imported: everything, on one thread."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import torch._dynamo
import torch.onnx

import compressor.api  # noqa: F401
from tests.translations import torch_2_5

torch.set_num_threads(1)
torch_2_5.get_torchlib_ops()
