"""Sums over all but one axis of many tensors: a CUDA kernel, its work tables, and the same sums in PyTorch."""
