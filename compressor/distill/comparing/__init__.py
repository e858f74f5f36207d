"""Losses beside the labels and the teacher's answers: where they look, and what they need to compare."""

from compressor.distill.comparing.beside import Beside
from compressor.distill.comparing.checks import check_layers, check_terms
from compressor.distill.comparing.comparison import Seen, turned

__all__ = ["Beside", "Seen", "check_layers", "check_terms", "turned"]
