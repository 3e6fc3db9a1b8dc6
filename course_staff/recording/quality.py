"""What a rung loses: the exam of lesson 04, for a reference run of a checkpoint."""

from dataclasses import dataclass
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


@dataclass
class Exam:
    """The exam for all rungs of one checkpoint, whose `folder` has the tokenizer.

    It keeps the fp16 rung's labels, so that later rungs can be held against them.
    """

    folder: str
    of_fp16: list[str] | None = None

    def sat_by(self, model: Any, rung_name: str) -> dict[str, Any]:
        """The results of a chat model on this rung.

        Returns:
            `perplexity` of 60 reviews, `right` of `reviews`, and `same_as_fp16`, a share; None
            where the fp16 rung did not come before.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.folder, padding_side="left")
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        examples = data.reviews(REVIEWS)
        given = labels(model, tokenizer, [review for review, _ in examples])
        same = [a == b for a, b in zip(given, self.of_fp16 or [], strict=False)]
        if rung_name == "fp16":
            self.of_fp16 = given
        return {
            "perplexity": round(perplexity(model, tokenizer, [r for r, _ in examples[:READ]]), 3),
            "reviews": len(examples),
            "right": sum(a == true for a, (_, true) in zip(given, examples, strict=True)),
            "same_as_fp16": sum(same) / len(same) if same else None,
        }
