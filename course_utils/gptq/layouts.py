"""The layouts of GPTQ checkpoints on disk: what wrote a folder, and how to rewrite it for another.

Three programs write GPTQ checkpoints: GPTQModel, transformers (`GPTQConfig`) and auto-gptq. The
packed weights are the same. The differences are the name of the weights' file, what the JSON says,
and the version of the format: `gptq` stores each group's zero point less one, `gptq_v2` as it is.
Only the JSON tells them apart, and auto-gptq does not look: it reads every zero one too high.

What this module does not know (another format, a setting, tensors that do not fit the bits) it
refuses and never rewrites. It reads and writes files; it runs no model.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.errors import CourseError
from course_utils.gptq import child, packing
from course_utils.gptq.files import index_of, odd
from course_utils.gptq.files import read_json as read_json
from course_utils.gptq.files import write_json as write_json

READERS = ("transformers", "gptqmodel", "auto-gptq")
FORMATS = ("gptq", "gptq_v2")
BITS = (2, 3, 4, 8)
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
SETTINGS = "quantize_config.json"
CONFIG = "quantization_config"  # where the same stands in config.json
# Settings that say how the weights were found, or that `describe` reads: none changes how the
# packed weights are to be read. From auto-gptq 0.7, GPTQModel 7.6 and transformers 5.23.
UNDERSTOOD = {
    *("bits", "group_size", "quant_method", "method", "format", "checkpoint_format", "meta"),
    *("sym", "desc_act", "static_groups", "true_sequential", "act_group_aware", "mse"),
    *("damp_percent", "damp_auto_increment", "dataset", "tokenizer", "model_seqlen"),
    *("batch_size", "pad_token_id", "max_input_length", "cache_block_outputs", "backend"),
    *("block_name_to_quantize", "module_name_preceding_first_block", "is_marlin_format"),
    *("model_name_or_path", "model_file_base_name", "use_cuda_fp16", "use_exllama"),
    *("disable_exllama", "exllama_config"),
}


@dataclass(frozen=True)
class Layout:
    """How a GPTQ checkpoint lies in its folder.

    Attributes:
        maker: `gptqmodel`, `transformers` or `auto-gptq`; `unknown` where nothing tells.
        version: `gptq` or `gptq_v2`.
        bits: bits of one quantized weight.
        group_size: how many weights of a row share a scale and a zero; -1: the whole row.
        files: names of the weights' files, sorted.
        unknown: settings in its JSON that the course does not know, sorted.
    """

    maker: str
    version: str
    bits: int
    group_size: int
    files: tuple[str, ...]
    unknown: tuple[str, ...] = ()


def quantization(folder: Path) -> dict[str, Any]:
    """What a checkpoint's JSON files say about its quantization; empty where it has none.

    Raises:
        CourseError: a file cannot be read, or config.json and quantize_config.json disagree:
            transformers believes the first, auto-gptq the second.
    """
    inside = read_json(folder / "config.json").get(CONFIG) or {}
    if not isinstance(inside, dict):
        raise odd(folder, "Its quantization_config holds no settings by name.")
    beside = read_json(folder / SETTINGS)
    for key in ("bits", "group_size", "desc_act", "sym", "checkpoint_format", "quant_method"):
        said = [part[key] for part in (inside, beside) if part.get(key) is not None]
        if len(said) == 2 and said[0] != said[1]:
            raise odd(folder, f"{key} is {said[0]} in config.json and {said[1]} in {SETTINGS}.")
    return {**inside, **{key: value for key, value in beside.items() if value is not None}}


def describe(folder: str | Path) -> Layout:
    """The layout of the GPTQ checkpoint in `folder`.

    Raises:
        CourseError: there is none, it is not quantized, in another way, or in a format or with
            settings that the course does not know.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise CourseError(
            f"The folder {folder.name!r} holds no model.",
            "There is no config.json in it.",
            "Give the folder that was quantized into.",
        )
    said = quantization(folder)
    method = _method(folder, said)
    if method != "gptq":
        raise CourseError(
            f"The checkpoint {folder.name!r} is not a GPTQ checkpoint.",
            f"Its config.json says {method}." if said else "Its weights are not quantized.",
            "Quantize the fp16 checkpoint with gptq.quantize() first.",
        )
    version, bits, group = _version(folder, said), said.get("bits"), said.get("group_size")
    if type(bits) is not int or bits not in BITS:
        raise odd(folder, f"bits is {bits!r}; known are {', '.join(map(str, BITS))}.")
    if type(group) is not int or not (group == -1 or group > 0):
        raise odd(folder, f"group_size is {group!r}; it should be a whole number, or -1.")
    for key in ("desc_act", "sym", "static_groups"):
        if not isinstance(said.get(key), bool | None):
            raise odd(folder, f"{key} is {said[key]!r}; it should be true or false.")
    unknown = [key for key, value in said.items() if key not in UNDERSTOOD and value]
    if said.get("pack_dtype") == "int32":
        unknown.remove("pack_dtype")
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    maker = _maker(folder, said)
    return Layout(maker, version, bits, group, tuple(files), tuple(sorted(unknown)))


def _method(folder: Path, said: dict[str, Any]) -> str:
    """The quantization method that the settings name; auto-gptq's early files name none."""
    found = said.get("quant_method") or said.get("method")
    early = read_json(folder / SETTINGS)
    if not found and "bits" in early and {"damp_percent", "desc_act"} & set(early):
        return "gptq"
    if not found and {"load_in_8bit", "load_in_4bit"} & set(said):
        return "bitsandbytes"
    return str(found or "no method of quantization")


def _version(folder: Path, said: dict[str, Any]) -> str:
    """`gptq` or `gptq_v2`."""
    if said.get("is_marlin_format"):
        raise odd(folder, "It is packed for the Marlin kernel (is_marlin_format).")
    keys = ("checkpoint_format", "format")
    named = {str(said[key]) for key in keys if said.get(key) is not None}
    named = named or {"gptq"}
    if len(named) > 1 or not named <= set(FORMATS):
        known = " and ".join(FORMATS)
        raise odd(folder, f"Its format is {' or '.join(sorted(named))}; known are {known}.")
    return named.pop()


def _maker(folder: Path, said: dict[str, Any]) -> str:
    """Which program wrote a checkpoint, as far as its settings tell."""
    meta = said.get("meta") or {}
    by = meta.get("quantizer") or [] if isinstance(meta, dict) else None
    if not isinstance(by, list | str):
        raise odd(folder, "meta does not say in the usual way which program wrote it.")
    by = str(by)
    if "optimum" in by:
        return "transformers"
    if "gptqmodel" in by:
        return "gptqmodel"
    return "auto-gptq" if {"is_marlin_format", "model_file_base_name"} & set(said) else "unknown"


def _check_tensors(folder: Path, found: Layout, index: str) -> None:
    """Raise `CourseError` where the tensors are not what the settings and the index say."""
    act_order = bool(quantization(folder).get("desc_act"))
    paths = [folder / name for name in found.files]
    names = packing.check(paths, found.bits, found.group_size, act_order)
    if index and (wrong := sorted(names ^ set(read_json(folder / index)["weight_map"]))):
        held = "is not in the index" if wrong[0] in names else "is in no file"
        raise odd(folder, f"{wrong[0]} {held}: {index} and the files of weights disagree.")


def check_readable(folder: str | Path, reader: str) -> Layout:
    """The checkpoint's layout, if `reader` reads it as it is and rightly.

    Args:
        folder: a GPTQ checkpoint.
        reader: `transformers`, `gptqmodel` or `auto-gptq`.

    Raises:
        CourseError: it would fail, or, worse, read wrong numbers without a word.
    """
    _check_reader(reader)
    folder = Path(folder)
    found = describe(folder)
    index = index_of(folder, found.files)
    if not found.unknown:  # which may say that some layers are packed otherwise
        _check_tensors(folder, found, index)
    rewrite = f'Rewrite it: gptq_layouts.convert(folder, out, "{reader}").'
    if reader == "auto-gptq":
        _check_for_autogptq(folder, found, rewrite)
        return found
    if WEIGHTS not in found.files and index != INDEX:
        raise CourseError(
            f"{reader} does not find the weights in {', '.join(found.files)}.",
            f"It looks for {WEIGHTS}; auto-gptq names its file after bits and group size.",
            rewrite,
        )
    if reader == "transformers" and not read_json(folder / "config.json").get(CONFIG):
        raise CourseError(
            f"transformers does not see that {folder.name!r} is quantized.",
            f"It reads config.json alone, and the settings are in {SETTINGS}.",
            rewrite,
        )
    if reader == "gptqmodel" and "is_marlin_format" in quantization(folder):
        raise CourseError(
            "GPTQModel does not take auto-gptq's settings as they are.",
            "It looks for `checkpoint_format` in place of `is_marlin_format`.",
            rewrite,
        )
    return found


def _check_for_autogptq(folder: Path, found: Layout, rewrite: str) -> None:
    """Raise `CourseError` where auto-gptq reads a checkpoint wrong or not at all."""
    if found.version != "gptq":
        raise CourseError(
            f"auto-gptq would read this checkpoint wrong, without an error: it is {found.version}.",
            "It adds one to every stored zero point, as the older format `gptq` needs. In gptq_v2 "
            "they are stored as they are, so that every weight would come out one step too low.",
            rewrite,
        )
    _check_understood(folder, found, "auto-gptq would pass over them without a word.")
    if not {"bits", "group_size"} <= set(read_json(folder / SETTINGS)):
        raise CourseError(
            f"auto-gptq does not find the settings of {folder.name!r}.",
            f"It reads bits and group size from {SETTINGS} alone.",
            rewrite,
        )


def _check_reader(name: str) -> None:
    """Raise `CourseError` for a reader that is not known."""
    if name not in READERS:
        raise CourseError(
            f"There is no reader {name!r}.", f"Known: {', '.join(READERS)}.", "Write one of these."
        )


def _check_understood(folder: Path, found: Layout, why: str) -> None:
    """Raise `CourseError` where settings say something that the course does not know."""
    if found.unknown:
        raise CourseError(
            f"{folder.name!r} has settings that stop it here: {', '.join(found.unknown)}.",
            f"They may say that some layers are stored otherwise; {why}",
            "Read it with GPTQModel or transformers as it is.",
        )


def replaceable(out: Path) -> bool:
    """Whether a folder is empty or a quantized checkpoint from before, and nothing of others'."""
    try:
        return out.is_dir() and (not any(out.iterdir()) or bool(quantization(out)))
    except CourseError:
        return False


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
        CourseError: an unknown reader, no GPTQ checkpoint, or one with something that the course
            does not understand or the older format cannot hold.
    """
    _check_reader(to)
    version = "gptq" if to == "auto-gptq" else describe(folder).version
    return _rewrite(Path(folder).resolve(), Path(out).resolve(), to, version)


def as_v2(folder: str | Path, out: str | Path) -> Path:
    """Write a `gptq` checkpoint again in format `gptq_v2`, the one that transformers writes.

    Raises:
        CourseError: one that is `gptq_v2` already; or as `convert`.
    """
    if describe(folder).version != "gptq":
        name = Path(folder).name
        raise CourseError(f"{name!r} is gptq_v2 already.", "", "Take a checkpoint in format gptq.")
    return _rewrite(Path(folder).resolve(), Path(out).resolve(), "transformers", "gptq_v2")


def _rewrite(folder: Path, out: Path, to: str, version: str) -> Path:
    """A copy of a checkpoint with the names and settings of `to`, in another version of the format.

    Shards keep their names, which stand in the index; the index and a single file get the name
    that everybody looks for.
    """
    found = describe(folder)
    _check_understood(folder, found, "the course rewrites only what it understands.")
    index = index_of(folder, found.files)
    said = quantization(folder)
    _check_tensors(folder, found, index)
    renamed = {index: INDEX} if index else {found.files[0]: WEIGHTS}
    with child.new_folder(out, folder, replaceable) as made:
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            shutil.copyfile(path, made / renamed.get(path.name, path.name))
        settings = _settings(said, to, version)
        config = read_json(made / "config.json")
        write_json(made / "config.json", {**config, "quantization_config": settings})
        write_json(made / SETTINGS, settings)
        if by := FORMATS.index(version) - FORMATS.index(found.version):
            for path in sorted(made.glob("*.safetensors")):
                packing.shift_zeros(path, found.bits, by)
    return out


def _settings(said: dict[str, Any], to: str, version: str) -> dict[str, Any]:
    """What the JSON files say about the quantization, in the words that `to` understands."""
    ours = {"quant_method": "gptq", "checkpoint_format": version}
    if to == "auto-gptq":
        keys = ("bits", "group_size", "damp_percent", "static_groups", "sym", "true_sequential")
        kept = {key: said[key] for key in keys if key in said}
        kept |= {"desc_act": bool(said.get("desc_act")), "model_name_or_path": None}
        return {**kept, **ours, "model_file_base_name": Path(WEIGHTS).stem}
    own = ("is_marlin_format", "model_name_or_path", "model_file_base_name")
    return {**{k: v for k, v in said.items() if k not in own}, **ours, "format": version}
