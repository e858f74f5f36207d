"""What a network does, written down: `record` notes the operators of one forward pass, `replay` runs them again."""
