"""Bytes that fine-tuning takes, predicted: full, LoRA and QLoRA, with AdamW.

It loads no model and measures nothing: shapes come from the config.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from course_utils.errors import CourseError
from course_utils.memory import predict, shapes

METHODS = ("full", "lora", "qlora")


def lora_parameters(config: Any, rank: int, modules: Sequence[str] = ()) -> int:
    """Trained parameters of LoRA with this rank, on all linear layers but the head by default.

    A layer with m inputs and n outputs gets A (rank x m) and B (n x rank): rank * (m + n)
    (arXiv 2106.09685, section 4.1). Biases get nothing.

    Args:
        config: as from `predict.config`.
        rank: r, at least 1.
        modules: layer names like `q_proj` or `embed_tokens`.

    Raises:
        CourseError: no layer has such a name or none of two dimensions, or the model has
            experts or convolutions, on which the formula does not hold.
    """
    predict.whole(rank=rank)
    tensors = shapes.shapes(config)
    if any(len(t.shape) > 2 and t.kind != "buffer" for t in tensors):
        raise CourseError(
            f"LoRA on a {config.model_type} model is not rank x (inputs + outputs).",
            "It has experts in one tensor, or convolutions: peft has ways of its own with them.",
            "Ask peft: get_peft_model(...).print_trainable_parameters().",
        )
    matrices = [t for t in tensors if t.path.endswith(".weight") and len(t.shape) == 2]
    names = {t: t.path.split(".")[-2] for t in matrices}
    for name in modules:
        if name not in names.values():
            raise CourseError(
                f"LoRA cannot adapt {name!r} in this model.",
                "There is no linear layer or embedding of that name.",
                "Take some of " + ", ".join(dict.fromkeys(names.values())) + ".",
            )
    chosen = [t for t in tensors if t.adapted]
    if modules:
        chosen = [t for t in matrices if names[t] in modules]
    return sum(rank * sum(t.shape) for t in chosen)


@dataclass(frozen=True, repr=False)
class Training(predict.Bytes):
    """Predicted bytes of one way of fine-tuning, and how many parameters it trains.

    Attributes:
        parts: `weights`, `gradients`, `optimizer`, `activations`.
    """

    method: str
    trained: int
    parameters: int

    def __repr__(self) -> str:
        """A line for each part."""
        return self.table(self.method, f"trains {self.trained:,} of {self.parameters:,}")


def training(
    config: Any,
    method: str,
    rank: int = 8,
    batch: int = 1,
    length: int = 256,
    dtype: str = "fp32",
    modules: Sequence[str] = (),
) -> Training:
    """Bytes that training takes with AdamW, by part.

    A trained parameter takes 16 bytes: 4 for itself, 4 for its gradient, 8 for AdamW's two moving
    averages. Mixed precision takes 16 as well: 2 + 2 for weight and gradient in 16 bits, and 4 + 8
    for the fp32 copy and the averages (arXiv 1910.02054, section 3.1). A frozen parameter takes
    what its dtype takes, and no more: that is LoRA's saving; QLoRA keeps the frozen ones in NF4
    with double quantization (arXiv 2305.14314). Activations are an estimate, with gradient
    checkpointing.

    Args:
        config: as from `predict.config`.
        method: `full`, `lora` or `qlora`.
        rank: LoRA's rank.
        batch: examples at once.
        length: tokens in each.
        dtype: of the frozen weights: `fp32` on a CPU, `fp16` or `bf16` on a GPU. QLoRA keeps
            embeddings, norms and head in it.
        modules: what LoRA adapts; all linear layers by default.

    Raises:
        CourseError: no such method.
    """
    predict.whole(rank=rank, batch=batch, length=length)
    if method not in METHODS:
        raise CourseError(f"There is no method {method!r}.", "", f"Take {', '.join(METHODS)}.")
    frozen = predict.weights(config, "nf4-dq" if method == "qlora" else dtype)
    trained = adapters = lora_parameters(config, rank, modules)
    if method == "full":
        trained, adapters = frozen.parameters, 0
    parts = {
        "weights": 4 * trained + _frozen_bytes(frozen, method, dtype),
        "gradients": 4 * trained,
        "optimizer": 8 * trained,
        "activations": _activations(config, batch * length, 4 if dtype == "fp32" else 2),
    }
    return Training(parts, method, trained, frozen.parameters + adapters)


def _frozen_bytes(weights: predict.Weights, method: str, dtype: str) -> int:
    """Bytes of what is held and not trained: in full training the buffers alone."""
    if method == "full":
        return weights.total - 4 * weights.parameters if dtype == "fp32" else 0
    if method == "qlora" and dtype == "fp32":  # the rung counts what is not quantized in 16 bits
        exact = ("embeddings", "norms", "head")
        return weights.total + sum(weights.parts.get(part, 0) for part in exact)
    return weights.total


def _activations(config: Any, tokens: int, n_bytes: int) -> int:
    """Bytes kept for the backward pass, with gradient checkpointing: an estimate.

    Each layer's input, one layer's inner results while it is recomputed (17 numbers a token and
    hidden unit; arXiv 2205.05198, section 4.1, counts 34 bytes of 16-bit numbers), and the logits
    with their fp32 copy and gradient. For models of attention and MLP layers alone, which
    `lora_parameters` has seen to.
    """
    config, inside = config.get_text_config(), 17  # of a model with eyes: the part that writes
    hidden = config.hidden_size
    layers = tokens * hidden * n_bytes * (config.num_hidden_layers + inside)
    return layers + tokens * config.vocab_size * (n_bytes + 8)
