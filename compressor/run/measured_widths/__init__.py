"""Choose widths by latency, corrected by building and timing students."""
