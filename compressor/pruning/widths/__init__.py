"""How wide each layer may be: costs of a choice of widths, the choice, and the `Plan` it makes."""
