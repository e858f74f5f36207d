"""Rules by which channels pass through operators: `RULES` has one for each."""

from compressor.pruning.graph.rules.flow import Flow, first_output, leave_whole
from compressor.pruning.graph.rules.table import RULES, rule_of

__all__ = ["RULES", "Flow", "first_output", "leave_whole", "rule_of"]
