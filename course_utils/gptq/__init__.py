"""GPTQ: quantizing with GPTQModel and AutoGPTQ, and how their checkpoints lie on disk."""

from course_utils.gptq.gptqmodel import INSTALL, quantize, quiet_gptq, why_not

__all__ = ["INSTALL", "quantize", "quiet_gptq", "why_not"]
