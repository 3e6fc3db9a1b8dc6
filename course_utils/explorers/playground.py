"""Type a review; see the reply and the label: of a model in this process, or of an endpoint."""

import html
from functools import partial
from typing import Any

from course_utils import plots, sentiment, settings
from course_utils.chat import templates as chat_templates
from course_utils.errors import CourseError
from course_utils.explorers.controls import COFFEE, ROOM, boxed, one_of, panel, text_box
from course_utils.plots import Shown
from course_utils.sentiment import Complete

INSTRUCTIONS: dict[str, str | None] = {
    "the course's": sentiment.SYSTEM,
    "a sentence": "Give the sentiment and the reason in one sentence.",
    "JSON": "Answer in JSON with the keys sentiment and reason.",
    "none": None,
}


def _check_typed(review: str) -> None:
    """Raise `CourseError` where nothing was typed."""
    if not review.strip():
        raise CourseError("There is no review yet.", "", "Type one and press Enter.")


def _read(model: Any, tokenizer: Any, review: str) -> Shown:
    """The model's reply to a review, its label, and the probabilities of the labels.

    Raises:
        CourseError: the review is empty, no text, too long, or refused by the chat template.
    """
    _check_typed(review)
    chat = sentiment.messages(review)
    prompt = chat_templates.render(tokenizer, chat)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    sentiment.check_room(model, len(ids), ROOM)
    reply = sentiment.local_complete(model, tokenizer)(chat)
    label = sentiment.parse_label(reply)
    chances = sentiment.label_probabilities(model, tokenizer, chat)
    title = "Probability of the reply's first word"
    top = max(chances, key=lambda name: chances[name])
    chart = plots.bars(chances, title, number="{:.1f}", highlight=[top], in_picture="{:.3f}")
    lines = [f"review: {review}", f"reply:  {reply}", f"label:  {label}", "", chart.text]
    note = boxed(f"<b>reply:</b> {html.escape(reply)}\n<b>label:</b> {label}")
    return Shown("\n".join(lines), png=chart.png, note=note)


def playground(model: Any, tokenizer: Any, review: str = COFFEE) -> Any:
    """Type a review; see the reply, the label parsed from it, and how sure the model is.

    Returns:
        A widget; a `Shown` for `review` while a program runs the notebook.
    """
    if settings.static():
        return _read(model, tokenizer, review)
    again = {"Ask the model": lambda review: None}
    box = text_box(review, "Your review:")
    return panel(partial(_read, model, tokenizer), {"review": box}, again)


def _asked(complete: Complete, review: str, system: str | None) -> str:
    """What an endpoint makes of a review, in lines: instructions, reply, label.

    Raises:
        CourseError: the review is empty or no text, or the endpoint does not answer.
    """
    from openai import OpenAIError

    _check_typed(review)
    try:
        reply = complete(sentiment.messages(review, system))
    except OpenAIError as error:
        raise CourseError(
            "The endpoint gave no answer.",
            f"{type(error).__name__}: {error}",
            "See what to do about this error in lesson 01, section 9.",
        ) from None
    label = sentiment.parse_label(reply)
    return f"instructions: {system or '(none)'}\nreply: {reply}\nlabel: {label}"


def endpoint_playground(complete: Complete, review: str = COFFEE) -> Any:
    """Type a review and choose the instructions; see the endpoint's reply, and the label in it.

    Args:
        complete: messages in, reply out, as lesson 01 builds it on the client.
        review: the first review.

    Returns:
        A widget; a `Shown` for `review` while a program runs the notebook.
    """
    first = next(iter(INSTRUCTIONS))
    if settings.static():
        return Shown(f"review: {review}\n{_asked(complete, review, INSTRUCTIONS[first])}")

    def draw(review: str, system: str) -> Shown:
        said = _asked(complete, review, INSTRUCTIONS[system])
        return Shown(said, html=boxed(html.escape(said)))

    system = one_of(INSTRUCTIONS, first, "instructions")
    return panel(draw, {"review": text_box(review, "Your review:"), "system": system})
