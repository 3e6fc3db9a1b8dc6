"""The memory of fine-tuning: the peak of a few LoRA or QLoRA steps on a model.

LoRA trains small added matrices on a 16-bit model (arXiv 2106.09685); QLoRA does it on an NF4
model with double quantization (arXiv 2305.14314).
"""

import statistics
from typing import Any

from course_staff.recording import speed
from course_utils.errors import CourseError
from course_utils.memory import measured as memory

RUNG = {"lora": "bf16", "qlora": "nf4-dq"}
STEPS = 3


def with_adapters(model: Any, method: str, rank: int, checkpointing: bool) -> Any:
    """The model with trainable adapters on all its linear layers.

    Raises:
        CourseError: peft is missing.
    """
    try:
        from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    except ImportError:
        raise CourseError(
            "peft is missing.", "It adds the LoRA matrices.", "pip install peft"
        ) from None
    if method == "qlora":
        model = prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
        )
    elif checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    lora = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, lora).train()


def measure(model: Any, ids: Any, method: str, rank: int, checkpointing: bool) -> dict[str, Any]:
    """Peak bytes and time of a few training steps with AdamW.

    Args:
        model: on the rung that `RUNG` names; it gets adapters and is of no other use afterwards.
        ids: token ids, (batch, length).
        method: `lora` or `qlora`.
        rank: of the adapters.
        checkpointing: gradient checkpointing, which keeps fewer activations and computes them
            again.

    Returns:
        What the reference run keeps: bytes before and at the peak, seconds a step, tokens/s.
    """
    import torch

    base = sum(memory.tensor_bytes(model).values())
    # adapters, and what prepare_model_for_kbit_training makes wider, count towards the peak;
    # the second step is the first with the optimizer's states in memory
    with memory.measure(watch=True) as used:
        model = with_adapters(model, method, rank, checkpointing)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4)
        _step(model, optimizer, ids)
        _step(model, optimizer, ids)
    taken = speed.seconds(lambda: _step(model, optimizer, ids), str(ids.device), STEPS)
    return {
        "method": method,
        "rank": rank,
        "gradient_checkpointing": checkpointing,
        "batch": ids.shape[0],
        "length": ids.shape[1],
        "trainable_parameters": sum(p.numel() for p in trained),
        "base_bytes": base,
        "peak_bytes": used.before + (used.peak or 0),
        "reserved_peak_bytes": used.reserved_peak,
        "step_s": round(statistics.median(taken), 4),
        "tokens_s": round(ids.numel() / statistics.median(taken), 2),
    }


def _step(model: Any, optimizer: Any, ids: Any) -> None:
    """One optimizer step that learns to continue `ids`."""
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
