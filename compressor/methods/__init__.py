"""How a student comes to know what its teacher knows: the methods of distillation, and the controls beside them."""

from compressor.methods.cascade.cascade import cascade
from compressor.methods.ensemble import ensemble
from compressor.methods.layerwise.indistill import indistill
from compressor.methods.layerwise.information_flow import information_flow
from compressor.methods.lightweight_teacher import lightweight_teacher
from compressor.methods.plain import (
    cut_only,
    finetune,
    itself,
    kd,
    label_smoothing,
    multi_teacher,
    repair,
    steps,
)
from compressor.methods.stages import Stage, stages
from compressor.methods.task import Method, Task, Training
from compressor.methods.teacher_free import teacher_free, teacher_free_self

__all__ = ["METHODS", "Method", "Stage", "Task", "Training", "stages"]

METHODS: dict[str, Method] = {
    "steps": steps,
    "cascade": cascade,
    "multi-teacher": multi_teacher,
    "ensemble": ensemble,
    "kd": kd,
    "lightweight-teacher": lightweight_teacher,
    "teacher-free": teacher_free,
    "teacher-free-self": teacher_free_self,
    "self": itself,
    "label-smoothing": label_smoothing,
    "finetune": finetune,
    "information-flow": information_flow,
    "indistill": indistill,
    "repair": repair,
    "cut-only": cut_only,
}
"""Each method by the name that a recipe gives (``distil.method``)."""
