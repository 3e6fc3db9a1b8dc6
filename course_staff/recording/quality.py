"""What a rung loses: the exam of lesson 04, for a reference run of a checkpoint."""

from dataclasses import dataclass
from typing import Any

from course_utils import data
from course_utils.perplexity import perplexity
from course_utils.sentiment import evaluate_batch, local_batch

REVIEWS, READ, BATCH = 200, 60, 16


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

        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        examples = data.reviews(REVIEWS)
        complete = local_batch(model, tokenizer, max_new_tokens=4)
        score = evaluate_batch(complete, examples, BATCH, progress=False)
        given = [label for _, _, label, _ in score.rows]
        same = [a == b for a, b in zip(given, self.of_fp16 or [], strict=False)]
        if rung_name == "fp16":
            self.of_fp16 = given
        return {
            "perplexity": round(perplexity(model, tokenizer, [r for r, _ in examples[:READ]]), 3),
            "reviews": score.total,
            "right": score.right,
            "same_as_fp16": sum(same) / len(same) if same else None,
        }
