"""A model run on paper: every tensor has its shape and its dtype, and none has memory.

PyTorch's fake tensors go through the same operations as real ones, so that what a prefill holds at
its peak, and what it leaves in the cache, is counted for any family that transformers knows: no
formula, no weights, no download. It knows no rung but its dtype, and nothing of quantized kernels.
"""

import contextlib
import functools
import inspect
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from course_utils.errors import CourseError
from course_utils.memory import shapes, tensors

MOST_OPERATIONS = 150_000  # about a quarter of a minute; a loop over tokens takes far more
# Fake tensors know the experts' grouped product in bfloat16 alone; float16 takes the same bytes.
RUN_AS = {"float16": "bfloat16"}
# Held against real runs, these were 6 to 25 % off: positions or masks are made while they run.
WRONG_ON_PAPER = ("bart", "biogpt", "git", "gpt_neox_japanese", "trocr", "xglm")
NO_CACHE = ("logits", "loss", "aux_loss", "router_logits", "hidden_states")


@dataclass(frozen=True)
class LayerCache:
    """What one layer keeps of the text: `fixed + growing * min(tokens, window)` bytes a row.

    Attributes:
        fixed: bytes whatever the length: the state of linear attention, of a convolution.
        growing: bytes for each token: keys and values.
        window: most tokens kept; None where all are. transformers keeps the sliding window
            without the token that is being written (`DynamicSlidingWindowLayer`).
    """

    fixed: int
    growing: int
    window: int | None

    def size(self, batch: int, length: int) -> int:
        """Bytes for `batch` rows of `length` tokens each."""
        return batch * (self.fixed + self.growing * min(length, self.window or length))


def peak(config: Any, dtype: str, batch: int, tokens: int) -> int:
    """Bytes held at once at the peak of a prefill: intermediate results, cache and logits.

    As `generate` does it: one forward pass under `inference_mode`, the head for the last position
    where the model can do that, the logits' fp32 copy. For PyTorch's CPU kernels and attention
    implementation; those of a GPU take about the same or less.

    Args:
        config: a model's config.
        dtype: PyTorch's name of the weights' dtype.
        batch: rows.
        tokens: of each row.

    Raises:
        CourseError: the model cannot be run on paper.
    """
    if config.model_type in WRONG_ON_PAPER:
        raise CourseError(
            f"The activations of a {config.model_type} model cannot be predicted.",
            "Run on paper it takes other memory than in truth.",
            "Measure them: load the model and generate inside memory.measure(watch=True).",
        )
    return _peak(shapes.Key(config), dtype, batch, tokens)


@functools.lru_cache(maxsize=256)
def _peak(key: shapes.Key, dtype: str, batch: int, tokens: int) -> int:
    """`peak`, remembered."""
    with _on_paper(key.config, dtype) as run:
        return run(batch, tokens)[0]


@functools.lru_cache(maxsize=64)
def cache(key: shapes.Key, dtype: str) -> tuple[LayerCache, ...]:
    """What each layer keeps of the text, read off two runs on paper, of 3 and of 5 tokens.

    Raises:
        CourseError: the model keeps no cache, keeps it elsewhere, or cannot be run on paper.
    """
    with _on_paper(key.config, dtype, experts="batched_mm") as run:
        (_, kept, short), (_, _, longer) = run(1, 3), run(1, 5)
    found = []
    for (three, window), (five, _) in zip(short, longer, strict=True):
        growing = (five - three) // 2
        found.append(LayerCache(three - 3 * growing, growing, window and window - 1))
    counted = sum(layer.size(1, 3) for layer in found)
    if not counted or kept > 1.01 * counted + 64 * len(found):
        raise CourseError(
            f"The cache of a {key.config.model_type} model cannot be predicted.",
            "It keeps what it remembers of a text in a way of its own, or remembers nothing.",
            "Measure it: load the model and generate inside memory.measure().",
        )
    return tuple(found)


@contextlib.contextmanager
def _on_paper(config: Any, dtype: str, experts: str = "") -> Iterator[Any]:
    """A function that runs the model: (batch, tokens) to (peak, bytes kept, [(bytes, window)])."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoModelForCausalLM

    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL)  # it tells of an operation it does not know with a traceback
    more = {"experts_implementation": experts} if experts else {}
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), shapes.told(config):
            model = AutoModelForCausalLM.from_config(
                shapes.portable(config),
                dtype=getattr(torch, RUN_AS.get(dtype, dtype)),
                **more,
            ).eval()
            last = "logits_to_keep" in inspect.signature(model.forward).parameters
            chosen = {"logits_to_keep": 1} if last else {}

            def run(batch: int, tokens: int) -> tuple[int, int, list[tuple[int, int | None]]]:
                ids = torch.zeros((batch, tokens), dtype=torch.long)
                with tensors.watch({}, MOST_OPERATIONS) as watched, torch.inference_mode():
                    output = model(ids, use_cache=True, **chosen)
                    scores = output.logits[:, -1].float()
                    del scores
                kept = {k: v for k, v in output.items() if k not in NO_CACHE}
                del output
                return watched.peak, watched.now, _layers(kept)

            yield run
    finally:
        log.setLevel(level)


def _layers(kept: dict[str, Any]) -> list[tuple[int, int | None]]:
    """(bytes, sliding window) of each layer of a cache; one entry for a cache without layers."""
    layers = getattr(kept.get("past_key_values"), "layers", None)
    if layers is None:
        return [(_bytes(kept), None)]
    return [(_bytes(layer), getattr(layer, "sliding_window", None)) for layer in layers]


def _bytes(thing: Any) -> int:
    """Bytes of all tensors below a layer of a cache, or a list or dict of tensors."""
    if hasattr(thing, "untyped_storage"):
        return thing.numel() * thing.element_size() if thing.dim() else 0
    if isinstance(thing, dict):
        return sum(map(_bytes, thing.values()))
    if isinstance(thing, (list, tuple)):
        return sum(map(_bytes, thing))
    return _bytes(vars(thing)) if hasattr(thing, "__dict__") and not callable(thing) else 0
