"""One table of translations to ONNX for all exports of a process.

PyTorch builds the table anew for every export, which takes longer than a small network's export itself. Hundreds of
tests export one; the table is the same for all of them.
"""

import functools

from onnxscript._framework_apis import torch_2_5

torch_2_5.get_torchlib_ops = functools.cache(torch_2_5.get_torchlib_ops)
