"""The files that leave a run: written in every format, proven equal to the network, measured."""
