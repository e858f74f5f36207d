"""Repair: fit the layers of a freshly cut network to its teacher by least squares, without labels and gradients."""
