"""Importance of each channel: `score` gives the `Scores` of a graph."""
