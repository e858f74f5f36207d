"""Networks by name, their weights, and the built-in one."""
