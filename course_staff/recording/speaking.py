"""Texts and scores of a real model, recorded for those who never leave the pocket tier.

    python -m course_staff.recording.speaking texts --out FOLDER   lesson 02: three continuations
    python -m course_staff.recording.speaking lora --out FOLDER    lesson 05: before and after LoRA

Pocket Llama was made to read reviews and cannot show what makes people want a language model. So
what SmolLM2 does with the same inputs stands beside it, labelled as recorded. Each JSON says what
ran where, when, with which versions and settings; nothing but this script writes them.
"""

import argparse
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from course_staff.notebooks import store
from course_staff.recording import facts
from course_utils import data, models, settings, tuning
from course_utils.sentiment import Score, evaluate_batch, local_batch

START = "The food was"
DRAW: dict[str, Any] = {
    "max_new_tokens": 50,
    "do_sample": True,
    "temperature": 0.7,
    "top_p": 0.9,
}  # lesson 02's
SEEDS = (1, 2, 3)
LORA: dict[str, Any] = {
    "r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "target_modules": "all-linear",
}
TRAINING: dict[str, Any] = {"batch": 16, "learning_rate": 1e-3, "schedule": "linear", "passes": 1}


def loaded(name: str) -> tuple[Any, Any, dict[str, Any]]:
    """(model, tokenizer, what the recording says of it), in the dtype this machine is fast in."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = models.model_path(name)
    dtype = getattr(torch, facts.fast_dtype())
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model = model.to(facts.place()).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    source = Path(folder) / "source.json"
    about = {
        "name": settings.SMALL_ON_HUB.partition("/")[2]
        if name == settings.SMALL
        else "Pocket Llama",
        "dtype": facts.fast_dtype(),
        "fingerprint": models.fingerprint(folder),
        "weights": json.loads(source.read_text(encoding="utf-8")) if source.is_file() else None,
    }
    return model, tokenizer, about


def texts() -> dict[str, Any]:
    """Three drawn continuations by either model, with lesson 02's settings and seeds."""
    import torch

    found = []
    for name in (settings.POCKET, settings.SMALL):
        model, tokenizer, about = loaded(name)
        inputs = tokenizer(START, return_tensors="pt").to(model.device)
        about["texts"] = []
        for seed in SEEDS:
            torch.manual_seed(seed)
            drawn = model.generate(**inputs, **DRAW, pad_token_id=tokenizer.eos_token_id)
            about["texts"].append(tokenizer.decode(drawn[0], skip_special_tokens=True))
        found.append(about)
    return {"start": START, "settings": DRAW, "seeds": SEEDS, "models": found}


def lora() -> dict[str, Any]:
    """SmolLM2 on lesson 05's market notes before and after LoRA, asked with the notes alone."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    train, test = (data.reviews(name=f"market_notes/{part}.tsv") for part in ("train", "test"))
    parse = tuning.parser(sorted({label for _, label in train}))
    model, tokenizer, about = loaded(settings.SMALL)

    def score() -> Score:
        complete = local_batch(model.eval(), tokenizer, max_new_tokens=8)
        return evaluate_batch(complete, test, ask=tuning_chat, parse=parse, progress=False)

    before = score()
    model = get_peft_model(model, LoraConfig(**LORA, task_type="CAUSAL_LM"))
    seconds, losses = _trained(model.train(), tokenizer, train)
    after = score()
    trained, everything = model.get_nb_trainable_parameters()
    return {
        "data": "market_notes",
        "examples": len(train),
        "lora": LORA,
        "training": TRAINING | {"seconds": round(seconds, 1), "losses": losses},
        "parameters": {"trained": trained, "all": everything},
        "model": about,
        "scores": {"before": _figures(before), "after": _figures(after)},
    }


def tuning_chat(note: str) -> list[dict[str, str]]:
    """The note alone, as lesson 05 asks."""
    return [{"role": "user", "content": note}]


def _figures(score: Score) -> dict[str, Any]:
    """A score as the recording keeps it."""
    replies = [reply for *_, reply in score.rows]
    told = {"right": score.right, "total": score.total, "unparsed": len(score.unparsed)}
    return told | {"first_replies": replies[:5]}


def _trained(
    model: Any, tokenizer: Any, examples: list[tuple[str, str]]
) -> tuple[float, list[float]]:
    """Train on the labels' tokens alone, once through; (seconds, mean loss of each tenth)."""
    import torch

    def row(text: str, label: str) -> tuple[list[int], list[int]]:
        chat = tuning_chat(text)
        start = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
        chat.append({"role": "assistant", "content": label})
        ids = tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]
        n = len(start["input_ids"])
        return ids, [-100] * n + ids[n:]

    rows = [row(*example) for example in examples]
    order = torch.randperm(len(rows)).tolist()
    batches = [order[i : i + TRAINING["batch"]] for i in range(0, len(order), TRAINING["batch"])]
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=TRAINING["learning_rate"])
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(batches))
    losses, began = [], time.perf_counter()
    for batch in batches:
        longest = max(len(rows[i][0]) for i in batch)
        ids = torch.full((len(batch), longest), tokenizer.pad_token_id)
        labels = torch.full_like(ids, -100)
        for place, i in enumerate(batch):
            ids[place, : len(rows[i][0])] = torch.tensor(rows[i][0])
            labels[place, : len(rows[i][1])] = torch.tensor(rows[i][1])
        loss = model(input_ids=ids.to(model.device), labels=labels.to(model.device)).loss
        loss.backward()
        optimizer.step()
        falling.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    tenth = max(1, len(losses) // 10)
    means = [
        sum(losses[i : i + tenth]) / len(losses[i : i + tenth])
        for i in range(0, len(losses), tenth)
    ]
    return time.perf_counter() - began, [round(mean, 3) for mean in means]


def main() -> None:
    """Record what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("texts", "lora"))
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON")
    options = parser.parse_args()
    settings.prepare()
    run = {
        "made_by": "course_staff.recording.speaking",
        "command": f"python -m course_staff.recording.speaking {options.what}",
        "date": datetime.now(UTC).date().isoformat(),
        "device": facts.device(),
        "versions": facts.versions(),
        **{"texts": texts, "lora": lora}[options.what](),
    }
    path = options.out / f"smollm2-{options.what}.json"
    options.out.mkdir(parents=True, exist_ok=True)
    store.put({path: json.dumps(run, indent=1, ensure_ascii=False) + "\n"})
    print(path.name)


if __name__ == "__main__":
    main()
