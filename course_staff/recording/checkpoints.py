"""GPTQ for a reference run: the checkpoint that a rung needs, and who reads whose checkpoints."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from course_utils import data, sentiment
from course_utils.errors import CourseError
from course_utils.gptq import autogptq, build, gptqmodel, layouts
from course_utils.memory import measured as memory
from course_utils.memory.rungs import Rung
from course_utils.perplexity import perplexity

# of data.reviews(400): none of the 200 that the quality is measured on
CALIBRATION = slice(200, 328)
READ = 60


def calibration(folder: str | Path) -> list[str]:
    """The texts that lesson 04 calibrates on: reviews in the checkpoint's chat format."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    chats = [sentiment.messages(review) for review, _ in data.reviews(400)[CALIBRATION]]
    return [
        str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
        for chat in chats
    ]


def quantized(folder: str, r: Rung, out: Path) -> tuple[str, float]:
    """A checkpoint for a GPTQ rung, made with GPTQModel: (folder, seconds).

    Raises:
        CourseError: the extra is missing, or this checkpoint cannot be quantized so.
    """
    start = time.perf_counter()
    made = gptqmodel.quantize(
        folder, out, calibration(folder), bits=r.bits, group_size=r.group_size
    )
    return str(made), time.perf_counter() - start


def load(folder: str, device: str) -> Any:
    """A GPTQ checkpoint, loaded with plain `from_pretrained`."""
    from transformers import AutoModelForCausalLM

    with gptqmodel.quiet_gptq():
        return AutoModelForCausalLM.from_pretrained(folder, device_map={"": device}).eval()


# Who made it, who reads it, what was done in between, and which of `exchanged` is read.
DIRECTIONS = (
    ("fp16", "transformers", "as it is", "fp16"),
    ("GPTQModel", "transformers", "as it is", "new"),
    ("GPTQModel", "GPTQModel", "as it is", "new"),
    ("GPTQModel", "auto-gptq", "as it is", "new"),
    ("auto-gptq", "auto-gptq", "as it is", "old"),
    ("auto-gptq", "transformers", "file renamed", "old for transformers"),
    ("auto-gptq", "GPTQModel", "file renamed, JSON edited", "old for gptqmodel"),
    ("transformers", "GPTQModel", "as it is", "version 2"),
    ("GPTQModel", "auto-gptq", "as version 2, unchecked", "new as version 2"),
    ("transformers", "auto-gptq", "zeros rewritten", "version 2 for auto-gptq"),
)


def exchanged(folder: str, work: Path) -> dict[str, Path]:
    """The checkpoints that are read, by name: quantized in three ways, rewritten in four.

    Args:
        folder: an fp16 checkpoint.
        work: a folder for the quantized ones.
    """
    texts = calibration(folder)
    new = gptqmodel.quantize(folder, work / "gptqmodel", texts)
    old = autogptq.quantize(folder, work / "auto-gptq", texts)
    two = gptqmodel.quantize(folder, work / "v2", texts, recipe=with_transformers)
    return {
        "fp16": Path(folder),
        "new": new,
        "old": old,
        "version 2": two,
        "old for gptqmodel": layouts.convert(old, work / "for-new", "gptqmodel"),
        "old for transformers": layouts.convert(old, work / "for-plain", "transformers"),
        "version 2 for auto-gptq": layouts.convert(two, work / "for-old", "auto-gptq"),
        "new as version 2": layouts.as_v2(new, work / "unchecked"),
    }


def exchange(folder: str, work: Path, device: str) -> list[dict[str, Any]]:
    """Who reads whose GPTQ checkpoint, by the perplexity of review texts.

    Args:
        folder: an fp16 checkpoint.
        work: a folder for the quantized ones.
        device: where plain `from_pretrained` puts them.

    Returns:
        A row for each of `DIRECTIONS`: `made_by`, `read_by`, `how`, `perplexity`, and `right`:
        whether it is within a tenth of the fp16 checkpoint's, the first row.

    Raises:
        CourseError: GPTQModel or AutoGPTQ is not set up.
    """
    gptqmodel.check_installed()
    autogptq.check_ready()
    texts = [review for review, _ in data.reviews(READ)]
    readers: dict[str, Callable[[Path], float]] = {
        "transformers": lambda checkpoint: in_transformers(checkpoint, texts, device),
        "GPTQModel": lambda checkpoint: in_gptqmodel(checkpoint, texts),
        "auto-gptq": lambda checkpoint: autogptq.perplexities([checkpoint], texts, check=False)[0],
    }
    made = exchanged(folder, work)
    found: list[dict[str, Any]] = []
    for maker, reader, how, name in DIRECTIONS:
        value = readers[reader](made[name])
        right = not found or value < 1.1 * found[0]["perplexity"]
        row = {"made_by": maker, "read_by": reader, "how": how, "perplexity": round(value, 3)}
        found.append({**row, "right": right})
        print(f"{maker} -> {reader}, {how}: {value:.2f}", flush=True)
    return found


def in_transformers(folder: str | Path, texts: list[str], device: str) -> float:
    """Perplexity when plain `from_pretrained` loads the checkpoint."""
    from transformers import AutoTokenizer

    with memory.measure():
        model = load(str(folder), device)
    found = perplexity(model, AutoTokenizer.from_pretrained(folder), texts)
    del model
    freed = memory.free()
    if not freed.returned:
        raise CourseError("A model was not given back.", str(freed), "Restart the recording.")
    return found


def in_gptqmodel(folder: str | Path, texts: list[str]) -> float:
    """Perplexity of a GPTQ checkpoint when GPTQModel itself reads it, in a child process.

    Raises:
        CourseError: the extra is missing; GPTQModel does not read this checkpoint.
    """
    gptqmodel.check_installed()
    layouts.check_readable(folder, "gptqmodel")
    return build.read(read_with_gptqmodel, [folder], texts, gptqmodel.home())[0]


# -- run by their source in a child process (see course_utils.gptq.child): imports inside ----------


def with_transformers(model: str, out: str, texts: list[str], bits: int, group_size: int) -> None:
    """Quantize with transformers' `GPTQConfig`; writes format `gptq_v2`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPTQConfig

    tokenizer = AutoTokenizer.from_pretrained(model)
    method = GPTQConfig(
        bits=bits, group_size=group_size, dataset=texts, tokenizer=tokenizer, model_seqlen=128
    )
    quantized = AutoModelForCausalLM.from_pretrained(
        model, quantization_config=method, dtype=torch.float16
    )
    # without this every calibration text would be written into config.json
    quantized.config.quantization_config.dataset = None
    quantized.save_pretrained(out)
    tokenizer.save_pretrained(out)


def read_with_gptqmodel(folders: list[str], texts: list[str]) -> list[float]:
    """Perplexity of each checkpoint when GPTQModel itself reads it."""
    from gptqmodel import GPTQModel
    from transformers import AutoTokenizer

    found = []
    for folder in folders:
        model = GPTQModel.load(folder).model
        found.append(perplexity(model, AutoTokenizer.from_pretrained(folder), texts))
    return found
