"""Widths under several limits: a small integer program, exact or with a bound."""
