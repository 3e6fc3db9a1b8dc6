"""Lesson 04's things to look at and play with: bits, rounding a row, filling a card's memory.

As in `explorers`: a widget made of what ipywidgets 7 and 8 share, or a `Shown` picture while a
program runs the notebook.
"""

from functools import partial
from typing import Any

from course_utils import plots, settings
from course_utils.explorers.controls import boxed, one_of, panel, slider
from course_utils.memory import fit, predict, shapes
from course_utils.plots import Shown
from course_utils.units import GIB, size

MODELS = shapes.NAMES
RUNGS = ("fp16", "int8", "nf4", "nf4-dq", "gptq-4bit")
BLOCKS = (16, 32, 64, 128, 256)
OUTLIERS = (1, 2, 5, 10, 20, 50, 100)

# (format, its bits by what they are for): IEEE 754 for fp32 and fp16, Google's bfloat16
FORMATS = (
    ("fp32", {"sign": 1, "exponent": 8, "fraction": 23}),
    ("bf16", {"sign": 1, "exponent": 8, "fraction": 7}),
    ("fp16", {"sign": 1, "exponent": 5, "fraction": 10}),
    ("int8", {"sign": 1, "whole number": 7}),
    ("NF4, FP4", {"one of 16 levels": 4}),
)


def formats() -> Shown:
    """The formats of the ladder bit by bit: a box for each bit, coloured by what it is for."""
    kinds = list(dict.fromkeys(kind for _, parts in FORMATS for kind in parts))
    colours = dict(zip(kinds, (plots.STRONG, *plots.PASTEL), strict=False))
    with plots.canvas(height=2.6) as (figure, axes):
        for row, (_, parts) in enumerate(FORMATS):
            left = 0
            for kind, bits in parts.items():
                axes.barh(
                    [row] * bits,
                    1,
                    left=range(left, left + bits),
                    height=0.7,
                    color=colours[kind],
                    edgecolor=plots.INK,
                    linewidth=0.6,
                    label=kind,
                )
                left += bits
            axes.annotate(
                f"{left} bits", (left, row), (6, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks(range(len(FORMATS)), [name for name, _ in FORMATS])
        axes.set(xticks=[], xlim=(0, 36))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.invert_yaxis()
        handles, labels = axes.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        figure.legend(once.values(), once.keys(), loc="outside lower center", ncols=len(once))
        png = plots.as_png(figure)
    rows = [
        f"{name:9}" + ", ".join(f"{bits} {kind}" for kind, bits in parts.items())
        for name, parts in FORMATS
    ]
    return Shown("\n".join(rows), png=png)


def rounded(weights: Any, bits: int, block: int) -> Any:
    """Absmax rounding with one scale for each block of weights, and back; a tensor as long."""
    import torch

    largest = 2 ** (bits - 1) - 1
    out = []
    for part in weights.split(block):
        scale = (part.abs().max() / largest).clamp(min=torch.finfo(torch.float32).tiny)
        out.append((part / scale).round() * scale)
    return torch.cat(out)


def _rounding(row: Any, bits: int, block: int, outlier: int) -> Shown:
    """Weights against what rounding makes of them; the outlier is left out of picture and error."""
    weights = row.clone()
    weights[0] = outlier * row.abs().max()
    restored = rounded(weights, bits, block)[1:]
    weights = weights[1:]
    error = 100 * ((weights - restored).norm() / weights.norm()).item()
    overhead = 16 / block
    with plots.canvas(height=3.2) as (figure, axes):
        axes.plot(weights.numpy(), restored.numpy(), ".", markersize=4)
        axes.set(
            title=f"{bits} bits, blocks of {block}: {error:.0f} % error",
            xlabel="weight",
            ylabel="after rounding",
        )
        png = plots.as_png(figure)
    text = (
        f"{bits} bits, blocks of {block}, outlier {outlier:g} times the largest weight: about "
        f"{error:.0f} % error, {bits + overhead:.2f} bits a weight with 16-bit scales"
    )
    return Shown(text, png=png, note=boxed(text))


def rounding(row: Any) -> Any:
    """Round a row of weights: bits, block size, and an outlier in the first place.

    Args:
        row: a 1-d tensor of weights, at least 256 long.

    Returns:
        A widget; while a program runs the notebook a `Shown` of 4 bits, blocks of 64, no outlier.
    """
    row = row.detach().float().cpu()
    if settings.static():
        return _rounding(row, bits=4, block=64, outlier=1)
    controls = {
        "bits": slider(range(2, 9), 4, "bits:"),
        "block": slider(BLOCKS, 64, "block:"),
        "outlier": slider(OUTLIERS, 1, "outlier x:"),
    }
    return panel(partial(_rounding, row), controls)


def _vram(model: str, rung: str, batch: int, length: int, card: str, count: int) -> Shown:
    """A stacked bar of predicted memory on all cards together, against what they have."""
    config, on = shapes.config(model), fit.card(card)
    parts = dict(predict.inference(config, rung, batch=batch, length=length).parts)
    for each in ("activations", "overhead"):  # every card needs its own
        parts[each] *= count
    verdict = fit.fits(config, rung, on, batch=batch, length=length, count=count)
    cards = f"{count} x {card}" if count > 1 else card
    room, total = count * on.usable_bytes, sum(parts.values())
    with plots.canvas(height=2.2) as (figure, axes):
        left = 0.0
        for i, (part, n_bytes) in enumerate(parts.items()):
            axes.barh([0], [n_bytes / GIB], left=left, color=plots.PALETTE[i], label=part)
            left += n_bytes / GIB
        axes.axvline(room / GIB, color=plots.INK, linestyle="--")
        axes.annotate(f" {cards}", (room / GIB, 0.42))
        axes.set(title="", xlabel="GiB (predicted)", yticks=[], ylim=(-0.5, 0.7))
        axes.set_xlim(0, 1.15 * max(left, room / GIB))
        figure.legend(loc="outside upper left", ncols=4)
        png = plots.as_png(figure)
    listed = ", ".join(f"{part} {size(n)}" for part, n in parts.items())
    answer = "fits" if verdict.ok else f"does not fit: {verdict.reason}"
    text = (
        f"{model} in {rung}, {batch} x {length:,} tokens on {cards}: {answer}\n"
        f"needs {size(total)} of {size(room)} ({listed})"
    )
    return Shown(text, png=png, note=boxed(text))


def vram(model: str = "llama-2-7b", rung: str = "nf4", card: str = "T4", count: int = 1) -> Any:
    """Model, precision, batch, context, card and how many of them: does it fit? All predicted.

    Returns:
        A widget, at first for one sequence of 2,048 tokens; a `Shown` of that while a program runs
        the notebook.
    """
    if settings.static():
        return _vram(model, rung, 1, 2048, card, count)
    controls = {
        "model": one_of(MODELS, model, "model:"),
        "rung": one_of(RUNGS, rung, "precision:"),
        "batch": slider(range(1, 33), 1, "batch:"),
        "length": slider((2**n for n in range(7, 16)), 2048, "context:"),
        "card": slider((one.name for one in fit.cards()), card, "card:"),
        "count": slider(range(1, 5), count, "cards:"),
    }
    return panel(_vram, controls)
