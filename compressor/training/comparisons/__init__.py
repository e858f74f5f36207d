"""Extra losses between student and teacher: the layers that they read, and the modules that they train."""

from compressor.training.comparisons.comparison import Seen, turned
from compressor.training.comparisons.extra_losses import Beside
from compressor.training.comparisons.needs import check_layers, check_terms

__all__ = ["Beside", "Seen", "check_layers", "check_terms", "turned"]
