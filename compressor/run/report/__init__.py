"""What a run tells in the end: as a value, on a screen, and as Markdown."""
