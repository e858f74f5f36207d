"""Basic functions for all packages: files, cache, devices, JSON, imports, the terminal."""
