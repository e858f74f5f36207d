"""The files that a run ships: written in every format, proven equal to the network, and measured."""
