"""Files, caches, devices, the terminal: what every package stands on."""
