"""What a rung loses: the exam of lesson 04, for a reference run of a checkpoint."""

from typing import Any

from course_utils import data, sentiment
from course_utils.perplexity import perplexity

REVIEWS, READ, BATCH = 200, 60, 16


def labels(model: Any, tokenizer: Any, reviews: list[str]) -> list[str]:
    """The model's label for each review, greedily, in batches."""
    chats = [sentiment.messages(review) for review in reviews]
    found: list[str] = []
    for start in range(0, len(chats), BATCH):
        batch = tokenizer.apply_chat_template(
            chats[start : start + BATCH],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        ).to(model.device)
        output = model.generate(**batch, max_new_tokens=4, do_sample=False)
        new = output[:, batch["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        found += [sentiment.parse_label(text) for text in texts]
    return found


def measure(model: Any, folder: str, like: list[str] | None) -> tuple[dict[str, Any], list[str]]:
    """The exam's results, and the labels themselves.

    Args:
        model: a chat model on any rung.
        folder: with its tokenizer.
        like: the labels of the fp16 rung, where it came before.

    Returns:
        `perplexity` of 60 reviews, `right` of `reviews`, and `same_as_fp16`, a share or None.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    examples = data.reviews(REVIEWS)
    given = labels(model, tokenizer, [review for review, _ in examples])
    same = [a == b for a, b in zip(given, like or [], strict=False)]
    result = {
        "perplexity": round(perplexity(model, tokenizer, [r for r, _ in examples[:READ]]), 3),
        "reviews": len(examples),
        "right": sum(a == true for a, (_, true) in zip(given, examples, strict=True)),
        "same_as_fp16": sum(same) / len(same) if same else None,
    }
    return result, given
