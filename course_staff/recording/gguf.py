"""A GGUF file as a rung of a reference run: its bytes by ggml's formats, and what it lost.

The course runs no llama.cpp, so there is no speed here: what is said of the file is its size, and
the exam is that of its weights, unpacked.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from course_staff.recording import quality
from course_utils.errors import CourseError
from course_utils.memory.shapes import shapes

# bytes of a block of so many weights (github.com/ggml-org/ggml, ggml-common.h)
BLOCKS = {"F32": (4, 1), "F16": (2, 1), "Q4_0": (18, 32), "Q4_1": (20, 32), "Q8_0": (34, 32)}


def measured(path: Path, config: Any, exam: quality.Exam) -> dict[str, Any]:
    """The row of a GGUF file of this model, in bytes: predicted from the config, and as it is.

    `weights_bytes` are the tensors', `file_bytes` the file's, which holds the tokenizer too.

    Raises:
        CourseError: no such file, or a format that is not in `BLOCKS`.
    """
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    if not path.is_file():
        raise CourseError(f"There is no GGUF file {path.name}.", "", "Name one after --gguf.")
    tensors = gguf.GGUFReader(path).tensors
    kinds: Counter[str] = Counter()
    for tensor in tensors:
        kinds[tensor.tensor_type.name] += int(tensor.n_elements)
    if unknown := kinds.keys() - BLOCKS.keys():
        raise CourseError(f"The file has formats that are not known here: {', '.join(unknown)}.")
    linear = kinds.most_common(1)[0][0]
    words = next(t.tensor_type.name for t in tensors if t.name.startswith("token_embd"))
    model = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    kind = re.sub(r"\W", "", linear).lower()
    return {
        "rung": f"gguf-{kind}",
        "predicted": {"weights_bytes": predicted(config, linear, words)},
        "measured": {
            "weights_bytes": sum(int(tensor.n_bytes) for tensor in tensors),
            "file_bytes": path.stat().st_size,
            "formats": dict(kinds),
        },
        "quality": exam.sat_by(model.eval(), f"gguf-{kind}"),
    }


def predicted(config: Any, linear: str, words: str) -> int:
    """Bytes of a model's tensors with the linear layers and the embedding in these formats.

    The rest, the norms, is in 32 bits; buffers are computed and not in the file.
    """
    total = 0
    for shape in shapes(config):
        other = words if shape.part in ("embeddings", "head") else "F32"
        n_bytes, block = BLOCKS[linear if shape.kind == "linear" else other]
        total += 0 if shape.kind == "buffer" else shape.numel // block * n_bytes
    return total
