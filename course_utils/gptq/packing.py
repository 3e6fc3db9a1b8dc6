"""The packed tensors inside a GPTQ checkpoint's file: whether they fit, and moving their zeros.

A linear layer is stored as `qweight` (int32: inputs x bits / 32, outputs), `qzeros` (int32: groups,
outputs x bits / 32), `scales` (groups, outputs) and `g_idx` (int32: inputs), the group of each
input (AutoGPTQ's `QuantLinear`). This module knows files of such tensors, nothing of JSON.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from course_utils.errors import CourseError

SHIFTED = (2, 4, 8)  # bits of which a 32-bit word holds a whole number


NUMBERS = ("F16", "BF16", "F32")
WORDS = ("I32", "I64")


def check(paths: Sequence[Path], bits: int, group_size: int, act_order: bool) -> set[str]:
    """Raise `CourseError` where the packed tensors are not what the settings say.

    Args:
        paths: a checkpoint's safetensors files; tensors that are not packed are passed over.
        bits: of a weight.
        group_size: weights of a row that share a scale; -1: the whole row.
        act_order: whether the settings say that groups follow the activations (`desc_act`).

    Returns:
        The names of all tensors.
    """
    found: dict[str, Any] = {}
    with contextlib.ExitStack() as opened:
        for path in paths:
            found |= opened.enter_context(_open(path))
        named = (name.rpartition(".") for name in found)
        for layer in sorted({layer for layer, _, kind in named if kind in ("qweight", "qzeros")}):
            parts = ("qweight", "qzeros", "scales", "g_idx")
            of = {kind: found[name] for kind in parts if (name := f"{layer}.{kind}") in found}
            _check_shapes(layer, of, bits, group_size)
            if "g_idx" in of and (why := _odd_groups(of, group_size, act_order)):
                raise _unfit(layer, why)
            if "qweight" in of and (missing := [k for k in parts[:3] if k not in of]):
                raise _unfit(layer, f"it has no {missing[0]}")
            if layer == "lm_head":
                raise _unfit(layer, "it is quantized, and lm_head is not set")
    return set(found)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[dict[str, Any]]:
    """{name: tensor, unread} of a safetensors file.

    Raises:
        CourseError: it is damaged, or something else, like a page of a failed download.
    """
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise CourseError(
            f"{path.name} is damaged, or no file of weights.",
            f"safetensors says: {error}.",
            "Get this file again from where it came.",
        ) from None
    with file:
        yield {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def _check_shapes(layer: str, of: dict[str, Any], bits: int, group_size: int) -> None:
    """Raise `CourseError` where a layer's tensors are not as wide and long as they should be."""
    kinds = {"qweight": WORDS[:1], "qzeros": WORDS[:1], "scales": NUMBERS, "g_idx": WORDS}
    names = {"qweight": "weights", "qzeros": "zero points", "scales": "scales", "g_idx": "groups"}
    shapes = {kind: part.get_shape() for kind, part in of.items()}
    for kind, part in of.items():
        if part.get_dtype() not in kinds[kind]:
            known = "16 or 32-bit floats" if kind == "scales" else "32-bit integers"
            raise _unfit(layer, f"its {names[kind]} are not stored in {known}")
        if len(shapes[kind]) != (1 if kind == "g_idx" else 2):
            raise _unfit(layer, f"its {names[kind]} are not {bits} bits wide")
    if "scales" in of and "qzeros" in of:
        groups, outputs = shapes["scales"]
        if shapes["qzeros"] != [groups, -(-outputs * bits // 32)]:
            raise _unfit(layer, f"its zero points are not {bits} bits wide")
    if "qweight" not in of:
        return
    inputs = shapes["qweight"][0] * 32 // bits
    if "g_idx" in of and shapes["qweight"][0] * 32 != shapes["g_idx"][0] * bits:
        raise _unfit(layer, f"its weights are not {bits} bits wide")
    if "scales" in of:
        size = inputs if group_size == -1 else group_size
        if shapes["scales"] != [-(-inputs // size), shapes["qweight"][1]]:
            raise _unfit(layer, f"its scales are not one for {size} inputs and each output")


def _odd_groups(of: dict[str, Any], group_size: int, act_order: bool) -> str:
    """What is odd about the groups that a layer's inputs belong to; empty where nothing is."""
    import torch

    index = of["g_idx"][:].to(torch.int64)
    size = len(index) if group_size == -1 else group_size
    if not act_order and not torch.equal(index, torch.arange(len(index)) // size):
        return f"its groups are not {size} neighbours, and desc_act is not set"
    if "scales" in of and not 0 <= index.min() <= index.max() < of["scales"].get_shape()[0]:
        return "an input belongs to a group that has no scale"
    return ""


def _unfit(layer: str, why: str) -> CourseError:
    """The refusal of tensors that are something else than the settings say."""
    return CourseError(
        "The settings do not fit the weights, so this checkpoint is left as it is.",
        f"{layer}: {why}.",
        "Correct the settings, or get the checkpoint again from where it came.",
    )


def shift_zeros(path: Path, bits: int, by: int) -> None:
    """Rewrite a safetensors file between the formats: each packed zero one more, or one less.

    A word of 32 bits holds 32 / bits zeros. As long as none of them runs over, adding or taking
    0x11111111 (4 bits) changes each by one without touching its neighbour.

    Args:
        path: the file.
        bits: bits of one zero.
        by: 1 from `gptq` to `gptq_v2`, -1 back.

    Raises:
        CourseError: bits of which a word holds no whole number, or a zero that the other format
            cannot hold. The file is left as it was.
    """
    import torch
    from safetensors.torch import load, save_file

    if bits not in SHIFTED:
        raise _cannot(f"With {bits} bits a zero point may lie across two words.")
    tensors = load(path.read_bytes())  # a copy: a file that is mapped must not be written to
    ones, last = sum(1 << shift for shift in range(0, 32, bits)), 2**bits - 1
    for name in [name for name in tensors if name.endswith(".qzeros")]:
        words: Any = tensors[name].to(torch.int64) & 0xFFFFFFFF
        edge = 0 if by < 0 else last
        if any(((words >> shift) & last == edge).any() for shift in range(0, 32, bits)):
            raise _cannot(f"A zero point of {name} is {edge}; the older format stores each less 1.")
        moved = words + by * ones
        tensors[name] = torch.where(moved >= 2**31, moved - 2**32, moved).to(torch.int32)
    save_file(tensors, path, metadata={"format": "pt"})


def _cannot(why: str) -> CourseError:
    """The refusal to write a checkpoint in the other format."""
    return CourseError(
        "This checkpoint cannot be written in the other format.",
        why,
        "Read it with transformers or GPTQModel as it is, or quantize with sym=True and 4 bits.",
    )
