"""Choose a JSON schema and see what it leaves of the model's freedom, token by token."""

import html
import json
from collections.abc import Mapping
from typing import Any

from course_utils import plots, sentiment, settings
from course_utils.endpoint.bounds import Bounds, allowed
from course_utils.endpoint.refusals import Refusal
from course_utils.errors import CourseError
from course_utils.explorers.controls import COFFEE, WIDE, boxed, message, one_of
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


def bounded(
    model: Any, tokenizer: Any, review: str = COFFEE, schemas: Mapping[str, Any] | None = None
) -> Any:
    """Choose or write a JSON schema; see the reply, and where the schema left a choice.

    Args:
        model: a causal language model of transformers.
        tokenizer: its fast tokenizer, with a chat template.
        review: the first review.
        schemas: by name, the first is shown first; `SCHEMAS` by default.

    Returns:
        A widget; a `Shown` for `review` and the first schema while a program runs the notebook.
    """
    known = {name: json.dumps(schema) for name, schema in (schemas or SCHEMAS).items()}
    first = next(iter(known))
    if settings.static():
        shown = _written(model, tokenizer, review, known[first])
        return Shown(f"schema: {known[first]}\n{shown.text}", html=shown.html)
    import ipywidgets as widgets

    usual = {"continuous_update": False, "style": WIDE, "layout": widgets.Layout(width="95%")}
    box = widgets.Text(value=review, description="Your review:", **usual)
    choice = one_of(known, first, "schema")
    written = widgets.Text(value=known[first], description="as JSON:", **usual)
    result = widgets.HTML()

    def ask(_: object = None) -> None:
        try:
            shown = _written(model, tokenizer, box.value, written.value)
        except CourseError as error:
            result.value = message(error)
            return
        result.value = f'<div role="status">{shown.html}</div>'

    def choose(_: object) -> None:
        written.value = known[choice.value]  # which asks

    for control in (box, written):
        control.observe(ask, names="value")
    choice.observe(choose, names="value")
    ask()
    return widgets.VBox([box, choice, written, result])
