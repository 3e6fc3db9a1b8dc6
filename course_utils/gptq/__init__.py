"""GPTQ: quantizing with GPTQModel and AutoGPTQ, and how their checkpoints lie on disk."""

from course_utils.gptq.gptqmodel import INSTALL, perplexity, quantize, quiet_gptq, why_not

__all__ = ["INSTALL", "perplexity", "quantize", "quiet_gptq", "why_not"]
