"""The report of a run: as a value, on a screen, and as Markdown."""
