"""How a student comes to know what its teacher knows: the methods of distillation, and the controls beside them."""

from compressor.methods.cascade import cascade
from compressor.methods.controls import cut_only, finetune, kd, label_smoothing, steps
from compressor.methods.path import Stage, stages
from compressor.methods.task import Method, Task, Training

__all__ = ["METHODS", "Method", "Stage", "Task", "Training", "stages"]

METHODS: dict[str, Method] = {
    "steps": steps,
    "cascade": cascade,
    "kd": kd,
    "label-smoothing": label_smoothing,
    "finetune": finetune,
    "cut-only": cut_only,
}
"""Each method by the name that a recipe gives (``distil.method``)."""
