"""Losses beside the labels and the teacher's answers: where they look, and what they need to compare."""

from compressor.training.comparisons.comparison import Seen, turned
from compressor.training.comparisons.extra_losses import Beside
from compressor.training.comparisons.needs import check_layers, check_terms

__all__ = ["Beside", "Seen", "check_layers", "check_terms", "turned"]
