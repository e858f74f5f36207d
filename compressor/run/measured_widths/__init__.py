"""Widths chosen by latency, corrected by building and timing students."""
