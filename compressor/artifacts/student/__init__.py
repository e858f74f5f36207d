"""Students on disk: a folder without pickle, that loads back bit for bit and executes nothing."""

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
