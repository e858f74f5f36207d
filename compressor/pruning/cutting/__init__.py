"""From a network and a plan to a smaller network, and the proof that it is the one that was planned."""

from compressor.pruning.cutting.cut import FORMS, cut, form_of
from compressor.pruning.cutting.proof import Check, check_cut, require

__all__ = ["FORMS", "Check", "check_cut", "cut", "form_of", "require"]
