"""Turn rank and modules, and see how many parameters LoRA trains."""

import html
from functools import partial
from typing import Any

from course_utils import plots, settings
from course_utils.explorers.controls import boxed, one_of, panel, slider
from course_utils.memory import predict, training
from course_utils.plots import Shown
from course_utils.units import size

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MODULES: dict[str, tuple[str, ...]] = {
    "q and v, as in LoRA's paper": ("q_proj", "v_proj"),
    "attention": ATTENTION,
    "all linear layers": (*ATTENTION, "gate_proj", "up_proj", "down_proj"),
}
RANKS = [2**n for n in range(9)]


def _lora_counted(names: tuple[str, ...], rank: int, modules: str) -> Shown:
    """Trained parameters of LoRA for each model, as a share of all its parameters."""
    shares, lines = {}, []
    for name in names:
        config = predict.config(name)
        trained = training.lora_parameters(config, rank, MODULES[modules])
        whole = predict.weights(config, "fp16").parameters
        shares[name] = 100 * trained / whole
        lines.append(
            f"{name}: trains {trained:,} beside {whole:,} frozen, "
            f"an adapter of {size(4 * trained)} in fp32"
        )
    title = f"Trained parameters at rank {rank}, {modules}"
    chart = plots.bars(shares, title, unit="% of the model's own", number="{:.2f} %")
    note = boxed(html.escape("\n".join(lines)))
    return Shown("\n".join([chart.text, *lines]), png=chart.png, note=note)


def lora_counter(*models: str) -> Any:
    """Turn rank and modules, and see how many parameters LoRA trains; at first 8, on all layers.

    Args:
        *models: as for `predict.config`: names like "llama-2-7b", or folders.

    Returns:
        A widget; a `Shown` while a program runs the notebook.
    """
    if settings.static():
        return _lora_counted(models, 8, "all linear layers")
    layers = one_of(MODULES, "all linear layers", "modules")
    controls = {"rank": slider(RANKS, 8, "rank"), "modules": layers}
    return panel(partial(_lora_counted, models), controls)
