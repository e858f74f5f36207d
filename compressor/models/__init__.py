"""Build networks by name, load their weights, and the built-in network."""
