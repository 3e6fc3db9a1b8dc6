"""The layouts of GPTQ checkpoints on disk: what wrote a folder, and how to rewrite it for another.

Three programs write GPTQ checkpoints: GPTQModel, transformers (`GPTQConfig`) and auto-gptq. The
packed weights are the same. The differences are the name of the weights' file, what the JSON says,
and the version of the format: `gptq` stores each group's zero point less one, `gptq_v2` as it is.
Only the JSON tells them apart, and auto-gptq does not look: it reads every zero one too high.

This module reads and writes files; it runs no model.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.errors import CourseError
from course_utils.gptq import child

READERS = ("transformers", "gptqmodel", "auto-gptq")
WEIGHTS = "model.safetensors"
SETTINGS = "quantize_config.json"


@dataclass(frozen=True)
class Layout:
    """How a GPTQ checkpoint lies in its folder.

    Attributes:
        maker: `gptqmodel`, `transformers` or `auto-gptq`: which program wrote it.
        version: `gptq` or `gptq_v2`.
        bits: bits of one quantized weight.
        group_size: how many weights of a row share a scale and a zero; -1: the whole row.
        files: names of the weights' files, sorted.
    """

    maker: str
    version: str
    bits: int
    group_size: int
    files: tuple[str, ...]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file; an empty dict where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file the way transformers does."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def quantization(folder: Path) -> dict[str, Any]:
    """What a checkpoint's JSON files say about its quantization; empty where it has none."""
    inside = read_json(folder / "config.json").get("quantization_config") or {}
    return {**inside, **read_json(folder / SETTINGS)}


def describe(folder: str | Path) -> Layout:
    """The layout of the GPTQ checkpoint in `folder`.

    Raises:
        CourseError: there is none, it is not quantized, or in another way.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise CourseError(
            f"The folder {folder.name!r} holds no model.",
            "There is no config.json in it.",
            "Give the folder that was quantized into.",
        )
    said = quantization(folder)
    method = said.get("quant_method") or said.get("method") or ("gptq" if said else None)
    if method != "gptq":
        raise CourseError(
            f"The checkpoint {folder.name!r} is not a GPTQ checkpoint.",
            f"Its config.json says {method}." if method else "Its weights are not quantized.",
            "Quantize the fp16 checkpoint with gptq.quantize() first.",
        )
    by = " ".join((said.get("meta") or {}).get("quantizer") or [])
    maker = "auto-gptq" if "is_marlin_format" in said or not by else "gptqmodel"
    version = said.get("checkpoint_format") or said.get("format") or "gptq"
    return Layout(
        "transformers" if "optimum" in by else maker,
        str(version),
        int(said.get("bits", 0)),
        int(said.get("group_size", -1)),
        tuple(sorted(path.name for path in folder.glob("*.safetensors"))),
    )


def check_readable(folder: str | Path, reader: str) -> Layout:
    """The checkpoint's layout, if `reader` reads it as it is and rightly.

    Args:
        folder: a GPTQ checkpoint.
        reader: `transformers`, `gptqmodel` or `auto-gptq`.

    Raises:
        CourseError: it would fail, or, worse, read wrong numbers without a word.
    """
    found = describe(folder)
    rewrite = f'Rewrite it: gptq_layouts.convert(folder, out, "{reader}").'
    if reader == "auto-gptq" and found.version != "gptq":
        raise CourseError(
            f"auto-gptq would read this checkpoint wrong, without an error: it is {found.version}.",
            "It adds one to every stored zero point, as the older format `gptq` needs. In gptq_v2 "
            "they are stored as they are, so that every weight would come out one step too low.",
            rewrite,
        )
    named = found.maker == "auto-gptq" and WEIGHTS not in found.files
    if reader == "transformers" and named:
        raise CourseError(
            f"transformers does not find the weights in {', '.join(found.files) or 'this folder'}.",
            f"It looks for {WEIGHTS}; auto-gptq names its file after bits and group size.",
            rewrite,
        )
    marlin = "is_marlin_format" in quantization(Path(folder))
    if reader == "gptqmodel" and (named or marlin):
        raise CourseError(
            "GPTQModel does not take auto-gptq's files as they are.",
            f"It looks for {WEIGHTS} and for `checkpoint_format` in place of `is_marlin_format`.",
            rewrite,
        )
    return found


@contextlib.contextmanager
def new_folder(out: Path, source: Path) -> Iterator[Path]:
    """An empty folder that becomes `out` when the block ends well, and vanishes when it does not.

    It lies beside `out`, in a hidden folder of its own that may hold temporary files too.

    Raises:
        CourseError: `out` is `source`, or holds something that is no GPTQ checkpoint.
    """
    if out == source or out in source.parents:
        raise CourseError(
            f"{out.name!r} would be replaced while it is read.", "", "Write into another folder."
        )
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not quantization(out))):
        raise CourseError(
            f"There is something else at {out.name!r} already.",
            "Only a quantized checkpoint from before would be replaced.",
            "Write into another folder.",
        )
    work = child.folder_beside(out)
    try:
        made = work / out.name
        made.mkdir()
        yield made
        if out.exists():
            shutil.rmtree(out)
        made.rename(out)
    finally:
        child.remove(work)


def convert(folder: str | Path, out: str | Path, to: str) -> Path:
    """Write the checkpoint in `folder` again, as `to` reads it. The packed weights stay the same.

    Where auto-gptq is to read a `gptq_v2` checkpoint, the stored zeros are rewritten too.

    Args:
        folder: a GPTQ checkpoint.
        out: the folder to make; one made before is replaced.
        to: `transformers`, `gptqmodel` or `auto-gptq`.

    Returns:
        `out`.

    Raises:
        CourseError: no GPTQ checkpoint, an unknown reader, a zero the older format cannot hold.
    """
    if to not in READERS:
        raise CourseError(
            f"There is no reader {to!r}.", f"Known: {', '.join(READERS)}.", "Write one of these."
        )
    folder, out = Path(folder).resolve(), Path(out).resolve()
    found = describe(folder)
    with new_folder(out, folder) as made:
        for path in sorted(folder.iterdir()):
            if path.is_file():
                single = len(found.files) == 1 and path.name in found.files
                shutil.copyfile(path, made / (WEIGHTS if single else path.name))
        settings = _settings(quantization(folder), to)
        config = read_json(made / "config.json")
        write_json(made / "config.json", {**config, "quantization_config": settings})
        write_json(made / SETTINGS, settings)
        if to == "auto-gptq" and found.version == "gptq_v2":
            for path in sorted(made.glob("*.safetensors")):
                _shift_zeros(path, found.bits, -1)
    return out


def as_v2(folder: str | Path, out: str | Path) -> Path:
    """Write a `gptq` checkpoint again in format `gptq_v2`, the one that transformers writes.

    Raises:
        CourseError: no GPTQ checkpoint, or one that is `gptq_v2` already.
    """
    folder, out = Path(folder).resolve(), Path(out).resolve()
    found = describe(folder)
    if found.version != "gptq":
        raise CourseError(
            f"{folder.name!r} is {found.version} already.", "", "Take a checkpoint in format gptq."
        )
    with new_folder(out, folder) as made:
        shutil.copytree(folder, made, dirs_exist_ok=True)
        for name in [n for n in ("config.json", SETTINGS) if (made / n).is_file()]:
            said = read_json(made / name)
            (said.get("quantization_config") or said).update(
                {"checkpoint_format": "gptq_v2", "format": "gptq_v2"}
            )
            write_json(made / name, said)
        for path in sorted(made.glob("*.safetensors")):
            _shift_zeros(path, found.bits, 1)
    return out


def _settings(said: dict[str, Any], to: str) -> dict[str, Any]:
    """What the JSON files say about the quantization, in the words that `to` understands."""
    version = said.get("checkpoint_format") or said.get("format") or "gptq"
    if to == "auto-gptq":
        keys = ["bits", "group_size", "damp_percent", "desc_act", "static_groups", "sym"]
        keys += ["true_sequential"]
        kept = {key: said[key] for key in keys if key in said}
        file = {"model_name_or_path": None, "model_file_base_name": Path(WEIGHTS).stem}
        return {**kept, **file, "quant_method": "gptq", "checkpoint_format": "gptq"}
    own = ("is_marlin_format", "model_name_or_path", "model_file_base_name")
    kept = {key: value for key, value in said.items() if key not in own}
    return {**kept, "quant_method": "gptq", "checkpoint_format": version, "format": version}


def _shift_zeros(path: Path, bits: int, by: int) -> None:
    """Rewrite a safetensors file between the formats: each packed zero one more, or one less.

    A word of 32 bits holds 32 / bits zeros. As long as none of them runs over, adding or taking
    0x11111111 (4 bits) changes each by one without touching its neighbour.

    Args:
        path: the file.
        bits: bits of one zero.
        by: 1 from `gptq` to `gptq_v2`, -1 back.

    Raises:
        CourseError: a zero that the other format cannot hold.
    """
    import torch
    from safetensors.torch import load, save_file

    tensors = load(path.read_bytes())  # a copy: a file that is mapped must not be written to
    ones, last = sum(1 << shift for shift in range(0, 32, bits)), 2**bits - 1
    for name in [name for name in tensors if name.endswith(".qzeros")]:
        words = tensors[name].to(torch.int64) & 0xFFFFFFFF
        edge = 0 if by < 0 else last
        if any(((words >> shift) & last == edge).any() for shift in range(0, 32, bits)):
            raise CourseError(
                "This checkpoint cannot be written in the other format.",
                f"A zero point of {name} is {edge}; the older format stores each less one.",
                "Read it with transformers or GPTQModel, or quantize with sym=True.",
            )
        moved = words + by * ones
        tensors[name] = torch.where(moved >= 2**31, moved - 2**32, moved).to(torch.int32)
    save_file(tensors, path, metadata={"format": "pt"})
