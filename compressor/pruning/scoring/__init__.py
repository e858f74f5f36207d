"""How much each channel matters: `score` gives the `Scores` of a graph."""
