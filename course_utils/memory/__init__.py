"""Memory: measured (what a load or a generation took) and predicted (what it will take)."""

from course_utils.memory.measured import Freed, Used, free, measure, tensor_bytes

__all__ = ["Freed", "Used", "free", "measure", "tensor_bytes"]
