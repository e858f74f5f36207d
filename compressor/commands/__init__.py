"""The work behind the smaller commands; loaded only when one is called."""
