"""How fast a model reads and writes, and how fast the memory under it is.

Prefill is reading the prompt in one pass; decode is writing one token after another, each of
which reads every weight once. Medians over repeats, after a warm-up.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any


def wait(device: str) -> None:
    """Wait until the device has done what it was told."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def seconds(work: Callable[[], Any], device: str, repeats: int) -> list[float]:
    """Seconds of each of `repeats` runs of `work`, after one that warms up."""
    taken = []
    for _ in range(repeats + 1):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        taken.append(time.perf_counter() - start)
    return taken[1:]


def prompt(config: Any, batch: int, length: int, device: str) -> Any:
    """Random token ids, (batch, length), the same every time."""
    import torch

    random = torch.Generator().manual_seed(0)
    return torch.randint(3, config.vocab_size, (batch, length), generator=random).to(device)


def prefill(model: Any, ids: Any) -> Any:
    """Read the prompt once; the output holds the last position's logits and the KV cache."""
    return model(input_ids=ids, use_cache=True, logits_to_keep=1)


def decode(model: Any, output: Any, new_tokens: int) -> None:
    """Write `new_tokens` greedily after a prefill."""
    for _ in range(new_tokens):
        ids = output.logits[:, -1:].argmax(-1)
        output = model(input_ids=ids, past_key_values=output.past_key_values, use_cache=True)


def measure(model: Any, ids: Any, new_tokens: int, repeats: int) -> dict[str, Any]:
    """Tokens per second of prefill and decode, over the whole batch.

    Returns:
        `prefill_tokens_s` and `decode_tokens_s`, medians; `prefill_s` and `decode_s`, every repeat.
    """
    import torch

    device = str(ids.device)
    with torch.inference_mode():
        reading = seconds(lambda: prefill(model, ids), device, repeats)
        writing = []
        for _ in range(repeats + 1):
            output = prefill(model, ids)
            wait(device)
            start = time.perf_counter()
            decode(model, output, new_tokens)
            wait(device)
            writing.append(time.perf_counter() - start)
    writing = writing[1:]
    return {
        "prefill_tokens_s": round(ids.numel() / statistics.median(reading), 2),
        "decode_tokens_s": round(ids.shape[0] * new_tokens / statistics.median(writing), 2),
        "prefill_s": [round(s, 5) for s in reading],
        "decode_s": [round(s, 5) for s in writing],
    }


def copy_bandwidth(device: str, nbytes: int, repeats: int = 10) -> float:
    """Memory bandwidth in GB/s (10**9 bytes), bytes read and written, of copying `nbytes`."""
    import torch

    source = torch.ones(nbytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    taken = seconds(lambda: target.copy_(source), device, repeats)
    return round(2 * nbytes / statistics.median(taken) / 1e9, 1)
