"""Implementation of the smaller commands; loaded only when one is called."""
