"""Add one message after another and see the prompt grow."""

import html
from collections.abc import Mapping
from typing import Any

from course_utils import plots, settings
from course_utils.chat import templates as chat_templates
from course_utils.errors import CourseError
from course_utils.explorers.controls import boxed, one_of, panel, slider
from course_utils.plots import Shown
from course_utils.sentiment import Messages


def _chat_step(
    tokenizer: Any, chat: Messages, template: str | None, add_generation_prompt: bool
) -> Shown:
    """The prompt of `chat` as a strip, with its token count; or why the template refuses it.

    In a format whose marks this tokenizer cuts to pieces, runs of text in place of tokens.
    """
    try:
        runs = chat_templates.segments(tokenizer, chat, template, add_generation_prompt)
        unknown = chat_templates.unknown_marks(tokenizer, runs)
        if not unknown:
            runs = chat_templates.pieces(tokenizer, chat, template, add_generation_prompt)
    except CourseError as error:
        return Shown(str(error), html=boxed(html.escape(str(error))))
    strip = plots.chat_strip(runs)
    last = f"messages so far: {len(chat)}, the last one from the {chat[-1]['role']}"
    many = f"not counted, {unknown[0]} is none of this tokenizer's" if unknown else len(runs)
    text = f"{last}; tokens: {many}"
    return Shown(f"{text}\n{strip.text}", html=f"{boxed(html.escape(text))}{strip.html}")


def chat_stepper(
    tokenizer: Any, messages: Messages, templates: Mapping[str, str | None] | None = None
) -> Any:
    """Add one message after another and see the prompt grow, in one format or another.

    Args:
        tokenizer: a fast tokenizer of transformers.
        messages: the whole chat, at least one message.
        templates: chat templates by name, None for the tokenizer's own; only that by default.

    Returns:
        A widget; a `Shown` of the whole chat in the first format while a program runs the notebook.
    """
    formats = dict(templates or {"this model's own": None})
    first = next(iter(formats.values()))
    if settings.static():
        return _chat_step(tokenizer, messages, first, add_generation_prompt=False)
    import ipywidgets as widgets

    def draw(family: str, count: int, opened: bool) -> Shown:
        return _chat_step(tokenizer, messages[:count], formats[family], opened)

    opened = widgets.Checkbox(value=False, description="add_generation_prompt", indent=False)
    controls = {
        "family": one_of(formats, next(iter(formats)), "format"),
        "count": slider(range(1, len(messages) + 1), len(messages), "messages"),
        "opened": opened,
    }
    return panel(draw, controls)
