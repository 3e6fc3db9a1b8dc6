"""Perplexity: how surprised a model is by texts. The measure of what quantization loses."""

from collections.abc import Sequence
from typing import Any


def perplexity(model: Any, tokenizer: Any, texts: Sequence[str], batch: int = 16) -> float:
    """The exponential of the mean negative log-likelihood per token; 1 is the best (Jelinek, 1977).

    Each text is one sequence with exactly one BOS in front, whether the text spells it out (like
    a rendered chat template) or not. The first token is given, all others are predicted.

    Args:
        model: a causal language model on any device.
        tokenizer: its tokenizer.
        texts: the longer together, the steadier the figure.
        batch: how many texts at once.

    Raises:
        ValueError: no text has two tokens.
    """
    import math  # in here, since the function is also sent to other processes by its source

    import torch
    from torch.nn.functional import cross_entropy

    bos = tokenizer.bos_token or ""
    rows = []
    for text in texts:
        spelt_out = bool(bos) and text.startswith(bos)
        rows.append(tokenizer(text, add_special_tokens=not spelt_out).input_ids)
    loss, count = 0.0, 0
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        # padding on the right, which no token before it can see; -100 is left out of the loss
        ids = torch.full((len(some), max(len(row) for row in some)), -100)
        for i, row in enumerate(some):
            ids[i, : len(row)] = torch.tensor(row)
        ids = ids.to(model.device)
        with torch.inference_mode():
            logits = model(input_ids=ids.clamp(min=0)).logits[:, :-1].float()
        wanted = ids[:, 1:].flatten()
        loss += cross_entropy(logits.flatten(0, 1), wanted, reduction="sum").item()
        count += sum(len(row) - 1 for row in some)
    if not count:
        raise ValueError("perplexity needs a text of at least two tokens")
    return math.exp(loss / count)
