"""The packed tensors inside a GPTQ checkpoint's file: whether they fit, and moving their zeros.

A linear layer is stored as `qweight` (int32: inputs x bits / 32, outputs), `qzeros` (int32: groups,
outputs x bits / 32), `scales` (groups, outputs) and `g_idx` (int32: inputs), the group of each
input (AutoGPTQ's `QuantLinear`). This module knows files of such tensors, nothing of JSON.
"""

from pathlib import Path
from typing import Any

from course_utils.errors import CourseError

SHIFTED = (2, 4, 8)  # bits of which a 32-bit word holds a whole number


def check(path: Path, bits: int, group_size: int, act_order: bool) -> None:
    """Raise `CourseError` where a file's packed tensors are not what the settings say.

    Args:
        path: a safetensors file; tensors that are not packed are passed over.
        bits: of a weight.
        group_size: weights of a row that share a scale; -1: the whole row.
        act_order: whether the settings say that groups follow the activations (`desc_act`).
    """
    import torch
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        for layer in sorted(n.removesuffix(".qzeros") for n in names if n.endswith(".qzeros")):
            zeros = file.get_slice(f"{layer}.qzeros")
            if zeros.get_dtype() != "I32":
                raise _unfit(layer, "its zero points are not stored in 32-bit integers")
            if f"{layer}.scales" in names:
                groups, outputs = file.get_slice(f"{layer}.scales").get_shape()
                if zeros.get_shape() != [groups, -(-outputs * bits // 32)]:
                    raise _unfit(layer, f"its zero points are not {bits} bits wide")
            if f"{layer}.g_idx" in names:
                index = file.get_tensor(f"{layer}.g_idx")
                if f"{layer}.qweight" in names:
                    rows = file.get_slice(f"{layer}.qweight").get_shape()[0]
                    if rows * 32 != len(index) * bits:
                        raise _unfit(layer, f"its weights are not {bits} bits wide")
                size = len(index) if group_size == -1 else group_size
                if not act_order and not torch.equal(
                    index.to(torch.int64), torch.arange(len(index)) // size
                ):
                    raise _unfit(
                        layer, f"its groups are not {size} neighbours, and desc_act is not set"
                    )


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
