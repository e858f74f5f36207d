"""Methods that train a student: distillation, and controls to compare it with.

The table of methods is `compressor.recipe.method_table`: names, titles and epochs are needed without torch.
"""

from importlib import import_module

from compressor.methods.stages import Stage, stages
from compressor.methods.task import Method, Task, Training
from compressor.recipe.method_table import METHODS

__all__ = ["Method", "Stage", "Task", "Training", "method_named", "stages"]


def method_named(name: str) -> Method:
    """The function of a method."""
    module, function = METHODS[name].function.split(":")
    method: Method = getattr(import_module(f"{__name__}.{module}"), function)
    return method
