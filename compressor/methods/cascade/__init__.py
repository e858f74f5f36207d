"""Train all networks of a cascade together while their channels are chosen."""
