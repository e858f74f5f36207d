"""From a trained PyTorch network to a smaller one that is proven, exported and measured."""
