"""Methods that compare layers: information flow, and one layer after the other."""
