"""From a trained network to a smaller one: channel graph, scores, widths, cut, repair."""
