"""Widths of the layers: the cost of a choice of widths, the search for the best choice, and its `Plan`."""
