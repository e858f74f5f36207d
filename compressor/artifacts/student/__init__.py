"""Student folders: without pickle, exact to the bit, and loaded without running code from them."""

from compressor.artifacts.student.planfile import read_plan
from compressor.artifacts.student.student_folder import (
    Student,
    apply_plan,
    is_student,
    load_student,
    save_student,
)
from compressor.artifacts.student.tensorfile import same_bits

__all__ = ["Student", "apply_plan", "is_student", "load_student", "read_plan", "same_bits", "save_student"]
