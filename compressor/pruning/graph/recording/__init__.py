"""Recordings: `record` notes the operators of one forward pass, `replay` runs them again."""
