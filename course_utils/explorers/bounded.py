"""Choose a JSON schema and see what it leaves of the model's freedom, token by token."""

import html
import json
from functools import lru_cache, partial
from typing import Any

from course_utils import plots, sentiment, settings
from course_utils.endpoint.bounds import Bounds, allowed
from course_utils.endpoint.refusals import Refusal
from course_utils.errors import CourseError
from course_utils.explorers.controls import COFFEE, boxed, one_of, panel, text_box
from course_utils.plots import Shown

MOST = 60  # tokens of a reply
LABEL = {"enum": list(sentiment.LABELS)}
SCHEMAS: dict[str, Any] = {
    "one label": LABEL,
    "label and reason": {
        "type": "object",
        "properties": {"sentiment": LABEL, "reason": {"type": "string", "maxLength": 60}},
        "required": ["sentiment", "reason"],
        "additionalProperties": False,
    },
    "stars": {
        "type": "object",
        "properties": {"stars": {"type": "integer", "minimum": 1, "maximum": 5}},
        "required": ["stars"],
        "additionalProperties": False,
    },
}
FORCED, FREE = "#e5e7eb", "#fdba74"


class Bound:
    """A logits processor of transformers: what the schema does not allow gets no probability.

    Attributes:
        choices: for each step, how many tokens were allowed.
    """

    def __init__(self, tokenizer: Any, size: int, schema: str) -> None:
        """Prepare for one reply of a model with `size` logits.

        Raises:
            CourseError: the text is no JSON, no schema, or nothing can satisfy it.
        """
        try:
            if not isinstance(parsed := json.loads(schema), dict):
                raise ValueError("A schema is a JSON object, in braces.")
        except (ValueError, RecursionError) as error:
            step = 'Check quotes, commas and braces; the smallest schema is {"type": "string"}.'
            raise CourseError("This is no JSON schema.", str(error)[:200], step) from None
        try:
            self.matcher = Bounds(tokenizer, size).matcher(parsed)
        except Refusal as error:
            why = str(error).partition("this schema: ")[2]
            raise CourseError("No reply can be held to this schema.", why, "Change it.") from None
        self.choices: list[int] = []

    def __call__(self, ids: Any, scores: Any) -> Any:
        """The scores of the next token, shape (1, size), with -inf where it is not allowed."""
        if self.choices:
            self.matcher.consume_token(int(ids[0, -1]))
        kept = allowed(self.matcher, scores.shape[-1])
        self.choices.append(int(kept.sum()))
        return scores.masked_fill(~kept.to(scores.device), float("-inf"))


def _written(model: Any, tokenizer: Any, review: str, schema: str) -> Shown:
    """The reply to a review under a schema: its tokens, and how many were allowed at each.

    Raises:
        CourseError: there is no review, it is too long, or the schema will not do.
    """
    import torch

    if not review.strip():
        raise CourseError("There is no review yet.", "", "Type one and press Enter.")
    size = model.get_output_embeddings().out_features
    bound = Bound(tokenizer, size, schema)
    inputs = tokenizer.apply_chat_template(
        sentiment.messages(review),
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    ).to(model.device)
    start = inputs["input_ids"].shape[1]
    sentiment.check_room(model, start, MOST)
    with torch.inference_mode():
        output = model.generate(
            **inputs,
            max_new_tokens=MOST,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
            logits_processor=[bound],
        )[0, start:].tolist()
    ends = output[-1] == tokenizer.eos_token_id
    tokens = output[:-1] if ends else output
    text = tokenizer.decode(tokens).strip()
    pieces = [tokenizer.decode([token]) for token in tokens]
    counts = bound.choices[: len(tokens)]
    shades = [FORCED if count == 1 else FREE for count in counts]
    strip = plots.token_strip(pieces, counts, colours=shades)
    forced = counts.count(1)
    lines = [
        f"review: {review}",
        f"reply: {text}",
        f"{forced} of {len(tokens)} tokens had no alternative; below each: how many were allowed",
    ]
    if not ends:
        lines.append(f"Cut off after {MOST} tokens: not whole, so not valid.")
    note = boxed(html.escape("\n".join(lines)))
    return Shown("\n".join([*lines, strip.text]), html=note + strip.html)


def bounded(model: Any, tokenizer: Any) -> Any:
    """Choose or write a JSON schema; see the reply, and where the schema left a choice.

    Args:
        model: a causal language model of transformers.
        tokenizer: its fast tokenizer, with a chat template.

    Returns:
        A widget; a `Shown` for the first of `SCHEMAS` while a program runs the notebook.
    """
    known = {name: json.dumps(schema) for name, schema in SCHEMAS.items()}
    first = next(iter(known))
    if settings.static():
        shown = _written(model, tokenizer, COFFEE, known[first])
        return Shown(f"schema: {known[first]}\n{shown.text}", html=shown.html)
    choice, box = one_of(known, first, "schema"), text_box(known[first], "as JSON:")
    choice.observe(lambda change: box.set_trait("value", known[change["new"]]), names="value")
    asked = lru_cache(1)(partial(_written, model, tokenizer))  # a choice moves the box below, too
    controls = {"review": text_box(COFFEE, "Your review:"), "choice": choice, "schema": box}
    return panel(lambda review, choice, schema: asked(review, schema), controls)
