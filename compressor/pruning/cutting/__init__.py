"""From a network and a plan to a smaller network, and the proof that it is the one that was planned."""

from compressor.pruning.cutting.cut import FORMS, cut, form_of
from compressor.pruning.cutting.proof import check_cut

__all__ = ["FORMS", "check_cut", "cut", "form_of"]
