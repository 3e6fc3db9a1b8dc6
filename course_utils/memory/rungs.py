"""The rungs of the quantization ladder: their names, their bits, and how each one is loaded.

It knows the formats and no model: how many bytes a rung takes is `predict`'s work.
"""

import re
from dataclasses import dataclass
from typing import Literal

from course_utils.errors import CourseError

# The parts of a model that bytes are counted by; `scales` are those of quantized layers.
PARTS = ("embeddings", "attention", "mlp", "norms", "head", "scales", "buffers")
Kind = Literal["float", "int8", "bnb4", "gptq"]


@dataclass(frozen=True)
class Rung:
    """One way to hold a model's weights.

    Attributes:
        name: as in `LADDER`, a GPTQ rung also with a group size, like `gptq-4bit-64g`.
        kind: which format the linear layers of the decoder are in.
        bits: bits of one such weight, scales not counted.
        dtype: PyTorch's name for everything else: embeddings, norms, head, activations, KV cache.
        code: `nf4` or `fp4` on a bitsandbytes 4-bit rung.
        double_quant: whether the scales are quantized too (QLoRA's double quantization).
        group_size: how many weights of a row share a scale, on a GPTQ rung.
        capability: the compute capability a CUDA card needs for it.
    """

    name: str
    kind: Kind
    bits: int
    dtype: str = "float16"
    code: str = ""
    double_quant: bool = False
    group_size: int = 0
    capability: tuple[int, int] = (0, 0)


# Compute capability: bitsandbytes' installation guide (LLM.int8() 7.5, NF4 and FP4 6.0); bf16 in
# hardware from 8.0 (CUDA C++ programming guide). GPTQ's plain PyTorch kernel runs on any card.
_RUNGS = (
    Rung("fp32", "float", 32, "float32"),
    Rung("fp16", "float", 16),
    Rung("bf16", "float", 16, "bfloat16", capability=(8, 0)),
    Rung("int8", "int8", 8, capability=(7, 5)),
    Rung("fp4", "bnb4", 4, code="fp4", capability=(6, 0)),
    Rung("nf4", "bnb4", 4, code="nf4", capability=(6, 0)),
    Rung("nf4-dq", "bnb4", 4, code="nf4", double_quant=True, capability=(6, 0)),
    Rung("gptq-8bit", "gptq", 8, group_size=128),
    Rung("gptq-4bit", "gptq", 4, group_size=128),
)
LADDER = tuple(r.name for r in _RUNGS)


def rung(name: str) -> Rung:
    """The rung of that name; a GPTQ name may carry its group size, like `gptq-4bit-64g`.

    Raises:
        CourseError: there is no such rung.
    """
    for known in _RUNGS:
        if known.name == name:
            return known
    found = re.fullmatch(r"gptq-([48])bit-(\d+)g", name)
    if found and int(found[2]) > 0:
        return Rung(name, "gptq", int(found[1]), group_size=int(found[2]))
    raise CourseError(
        f"There is no rung {name!r}.",
        "The ladder has " + ", ".join(LADDER) + ".",
        "Write one of these; a GPTQ rung may name its group size, like gptq-4bit-64g.",
    )


def part_of(path: str) -> str:
    """Which part of a Llama-like model a layer's dotted path belongs to."""
    for word, part in (("norm", "norms"), ("embed", "embeddings"), ("attn", "attention")):
        if word in path:
            return part
    return "head" if path.endswith("lm_head") else "mlp"
