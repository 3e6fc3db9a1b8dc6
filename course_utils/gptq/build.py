"""Runs a quantizer's recipe in a child process: checks before, a whole folder or none after.

Shared by `gptq` (GPTQModel) and `autogptq`; it knows neither library, only what their logs say.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from course_utils import machine, models
from course_utils.errors import CourseError
from course_utils.gptq import child
from course_utils.gptq import layouts as gptq_layouts
from course_utils.memory import predict
from course_utils.perplexity import perplexity
from course_utils.units import size

Recipe = Callable[..., Any]

# What a quantizer leaves to the original: a GPTQModel checkpoint comes with a pad token and
# generation settings that the model never had.
SAME_AS_BEFORE = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)
FEWEST_TOKENS = 11  # GPTQModel drops shorter texts without a word (calibration_data_min_length)


@dataclass(frozen=True)
class Order:
    """What is to be quantized, as `gptq.quantize` takes it."""

    model: str | Path
    out: str | Path
    texts: Sequence[str]
    bits: int
    group_size: int


def build(recipe: Recipe, order: Order, home: child.Home) -> Path:
    """Run a recipe in a child process; the folder appears when it is whole. See `gptq.quantize`."""
    source = Path(order.model).expanduser().resolve()
    out = Path(order.out).expanduser().resolve()
    need = check_request(source, order.bits, order.group_size)
    texts = calibration(source, order.texts)
    free = machine.disk_free_bytes(out.parent)
    if free < need:
        raise CourseError(
            f"The disk is too full to quantize into {out.name!r}.",
            f"It takes up to {size(need)}, and {size(free)} are free.",
            "Free some space, or quantize into a folder on another disk.",
        )
    new = child.new_folder(out, source, gptq_layouts.replaceable)
    with new as made, _explained("Quantizing", out):
        made.rmdir()  # the recipe makes it
        arguments: dict[str, Any] = {"model": str(source), "out": str(made), "texts": texts}
        arguments |= {"bits": order.bits, "group_size": order.group_size}
        doing = f"quantizing to {order.bits} bits"
        child.run([recipe], arguments, made.parent, _within(home, made.parent), doing)
        _check_made(made, recipe)
        _same_as_before(made, source)
    return out


def read(
    reader: Callable[..., Any],
    folders: Sequence[str | Path],
    texts: Sequence[str],
    home: child.Home,
) -> list[float]:
    """Perplexities of checkpoints as `reader(folders, texts)` finds them in one child process."""
    sources = [Path(folder).expanduser().resolve() for folder in folders]
    arguments = {"folders": [str(source) for source in sources], "texts": list(texts)}
    work = child.folder_beside(sources[0])
    try:
        with _explained("Reading", sources[0]):
            return child.run([perplexity, reader], arguments, work, _within(home, work), "reading")
    finally:
        child.remove(work)


def check_request(source: Path, bits: int, group_size: int) -> int:
    """Raise `CourseError` unless the checkpoint can be quantized this way.

    Returns:
        Bytes of disk needed at most: the quantized weights, and the 16-bit ones, which GPTQModel
        lays aside layer by layer.
    """
    models.check_folder(source)
    said = gptq_layouts.quantization(source)
    if said:
        how = " ".join(str(said[k]) for k in ("quant_method", "bits") if said.get(k))
        raise CourseError(
            f"The checkpoint {source.name!r} is already quantized ({how} bit).",
            "Its weights have lost what GPTQ would need.",
            "Take the fp16 checkpoint, for example models.model_path().",
        )
    if bits not in (4, 8):
        raise CourseError(
            f"GPTQ with {bits} bits is not part of this course.",
            "The kernels that run everywhere take 4 or 8.",
            "Write bits=4.",
        )
    if group_size < 1:
        raise CourseError(
            f"A group size of {group_size} does not work here.",
            "It says how many weights share a scale.",
            "Take 128, 64 or 32.",
        )
    config = predict.config(source)
    quantized = predict.weights(config, f"gptq-{bits}bit-{group_size}g")
    return quantized.total + predict.weights(config, "fp16").total + 2 * 2**20


def calibration(source: Path, texts: Sequence[str]) -> list[str]:
    """The texts to calibrate on, without a BOS that the quantizer's tokenizer adds again.

    Raises:
        CourseError: there is no text that is long enough.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    if isinstance(texts, str):
        texts = [texts]
    added = tokenizer("").input_ids
    bos = (tokenizer.bos_token or "") if added and added[0] == tokenizer.bos_token_id else ""
    ready = [text.removeprefix(bos) for text in texts]
    lengths = [len(row) for row in tokenizer(ready).input_ids] if ready else []
    if not any(n >= FEWEST_TOKENS for n in lengths):
        raise CourseError(
            "There is no calibration text."
            if not ready
            else "The calibration texts are too short.",
            "GPTQ measures what each layer sees, so it needs texts like those the model will read"
            + (f"; the longest of yours has {max(lengths)} tokens." if lengths else "."),
            "Pass some dozens of rendered prompts of more than 10 tokens as `texts`.",
        )
    return [text for text, n in zip(ready, lengths, strict=True) if n >= FEWEST_TOKENS]


def _within(home: child.Home, work: Path) -> child.Home:
    """The same home with a library's temporary files and caches inside `work`."""
    place = work / "tmp"
    place.mkdir(exist_ok=True)
    inside = dict.fromkeys(("TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME", "HF_HOME"), str(place))
    return replace(home, env={**home.env, **inside})


@contextlib.contextmanager
def _explained(doing: str, folder: Path) -> Iterator[None]:
    """Turn what goes wrong in the child into a message."""
    try:
        yield
    except child.ChildFailed as error:
        if error.disk_full:
            raise _disk_full(doing, folder) from None
        raise CourseError(
            f"{doing} {folder.name!r} failed.",
            f"The child process said: {error}",
            "Nothing was left behind. If the message does not help, run the cell again with "
            "fewer texts; `python -m course_utils doctor` checks the installation.",
        ) from None
    except OSError as error:
        if not child.FULL.search(str(error)):
            raise
        raise _disk_full(doing, folder) from None


def _disk_full(doing: str, folder: Path) -> CourseError:
    """The message for a write that failed."""
    free = machine.disk_free_bytes(folder.parent)
    return CourseError(
        f"The disk ran full: {doing.lower()} {folder.name!r} stopped.",
        f"What was written is removed; {size(free)} are free now.",
        "Free some space, or use a folder on another disk, and run the cell again.",
    )


def _check_made(made: Path, recipe: Recipe) -> None:
    """Raise `CourseError` where a recipe came to its end without writing a checkpoint."""
    if not (made / "config.json").is_file() or not list(made.glob("*.safetensors")):
        raise CourseError(
            f"{recipe.__name__}() wrote no checkpoint.",
            "It ended without an error, but the folder `out` holds no config.json and weights.",
            "End it with `.save(out)` (GPTQModel) or `.save_pretrained(out)` (transformers).",
        )
    gptq_layouts.describe(made)


def _same_as_before(made: Path, source: Path) -> None:
    """Take over from the original what quantizing does not concern: tokenizer, template, defaults.

    GPTQModel also notes a pad token that the model never had, and its temporary folder.
    """
    for pattern in SAME_AS_BEFORE:
        for old in source.glob(pattern):
            shutil.copyfile(old, made / old.name)
    before = gptq_layouts.read_json(source / "config.json")
    for name in ("config.json", gptq_layouts.SETTINGS):
        if not (made / name).is_file():
            continue
        said = gptq_layouts.read_json(made / name)
        (said.get("quantization_config") or said).get("meta", {}).pop("offload_to_disk_path", None)
        if name == "config.json":
            said["pad_token_id"] = before.get("pad_token_id")
        gptq_layouts.write_json(made / name, said)
