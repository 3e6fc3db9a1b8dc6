"""Whether a model can learn from labelled examples."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from course_utils.errors import CourseError
from course_utils.sentiment import Messages
from course_utils.tuning.reading import Examples, listed

LABEL_TOKENS = 20  # what `local_complete` generates: a longer label would be cut off


def check(
    examples: Examples,
    tokenizer: Any,
    ask: Callable[[str], Messages],
    max_length: int | None = None,
) -> list[str]:
    """Look before training; returns the labels, sorted.

    Args:
        examples: (text, label) pairs.
        tokenizer: the model's, with its chat template.
        ask: text → messages, as `sentiment.messages`.
        max_length: tokens that an example may have, answer included; the tokenizer's own limit
            by default.

    Raises:
        CourseError: no examples, one label only, labels that differ in case alone, a label the
            model cannot say, a text the chat template refuses or that is too long.
    """
    counts = Counter(label for _, label in examples)
    if len(counts) < 2:
        only = f"All {len(examples)} have the label {next(iter(counts))!r}." if counts else ""
        raise CourseError(
            "There is nothing to learn: " + ("only one label." if counts else "no examples."),
            only,
            "Add examples of at least two labels.",
        )
    _check_labels(sorted(counts), tokenizer)
    limit = max_length or tokenizer.model_max_length
    too_long = []
    for number, (text, label) in enumerate(examples, 1):
        tokens = _length(ask(text), label, tokenizer, number)
        if tokens > limit:
            too_long.append(f"example {number}: {tokens:,} tokens, {text[:40]!r}…")
    if too_long:
        raise CourseError(
            f"{len(too_long)} of {len(examples)} texts are longer than {limit:,} tokens.",
            listed(too_long),
            "Shorten them: what stands beyond the limit, the label first, would be cut off.",
        )
    return sorted(counts)


def _check_labels(labels: list[str], tokenizer: Any) -> None:
    """Raise `CourseError` unless the model can say each label, and say it apart from the others."""
    folded: dict[str, str] = {}
    for label in labels:
        twin = folded.setdefault(label.casefold(), label)
        ids = tokenizer(label, add_special_tokens=False)["input_ids"]
        said = tokenizer.decode(ids, skip_special_tokens=True).strip()
        if twin != label:
            why = f"It differs from {twin!r} in capitals only."
        elif said != label:
            why = f"Through its tokenizer it comes back as {said!r}."
        elif len(ids) > LABEL_TOKENS:
            why = f"It is {len(ids)} tokens long, and a reply has at most {LABEL_TOKENS}."
        else:
            continue
        raise CourseError(
            f"The model cannot say the label {label!r}.",
            why,
            "Use short words in the script the model was trained on, one spelling for each.",
        )


def _length(chat: Messages, label: str, tokenizer: Any, number: int) -> int:
    """How many tokens an example has in the chat template, answer included."""
    from jinja2 import TemplateError

    try:
        whole = [*chat, {"role": "assistant", "content": label}]
        return len(tokenizer.apply_chat_template(whole, return_dict=True)["input_ids"])
    except TemplateError as error:
        raise CourseError(
            f"The chat template refuses example {number}.",
            str(error),
            "Take the mark out of the text.",
        ) from None
