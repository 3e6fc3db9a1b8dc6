"""Whether a model can learn from labelled examples, before it tries."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import Any

from course_utils.errors import CourseError
from course_utils.replies import UNPARSED, parser
from course_utils.sentiment import Messages
from course_utils.tuning.reading import Examples, listed, unseen, visible

MAX_LENGTH = 1024  # tokens; what SFTConfig cuts at unless told otherwise
ENOUGH = 50  # examples of a label: with fewer, a training rarely gets further than the prompt
LABEL_TOKENS = 20  # what `local_complete` generates: a longer label would be cut off


def check(
    examples: Examples,
    tokenizer: Any,
    ask: Callable[[str], Messages],
    max_length: int = MAX_LENGTH,
) -> list[str]:
    """Look before training; returns the labels, sorted. Prints which labels have few examples.

    Args:
        examples: (text, label) pairs.
        tokenizer: the model's, with its chat template.
        ask: text → messages, as `sentiment.messages`.
        max_length: tokens that an example may have, answer included; give the trainer the same,
            since it drops longer ones without a word. The tokenizer's own limit counts too.

    Raises:
        CourseError: no examples, one label only, a label or text that is no text, labels that
            look alike, a label the model cannot say, a text that the chat template refuses or that
            is too long.
    """
    counts = _counted(examples)
    _check_labels(sorted(counts), tokenizer)
    limit = min(max_length, tokenizer.model_max_length)
    lengths = [
        _length(ask(text), label, tokenizer, n) for n, (text, label) in enumerate(examples, 1)
    ]
    too_long = [
        f"example {n}: {tokens:,} tokens, {examples[n - 1][0][:40]!r}…"
        for n, tokens in enumerate(lengths, 1)
        if tokens > limit
    ]
    if too_long:
        raise CourseError(
            f"{len(too_long)} of {len(examples)} texts are longer than {limit:,} tokens.",
            listed(too_long),
            "Shorten them: what stands beyond the limit, the label first, would be cut off.",
        )
    few = [f"{label!r} has {n}" for label, n in sorted(counts.items()) if n < ENOUGH]
    if few:
        print(f"Few examples, so expect little: {', '.join(few)}. About {ENOUGH} each is a start.")
    return sorted(counts)


def _counted(examples: Examples) -> Counter[str]:
    """How many examples each label has; refuses what is no text, and fewer than two labels."""
    for number, pair in enumerate(examples, 1):
        if wrong := [part for part in pair if not isinstance(part, str) or not _readable(part)]:
            raise CourseError(
                f"Example {number} has {wrong[0]!r} where a text belongs.",
                "Both must be text. pandas reads 1 as a number and an empty cell as nan.",
                "Turn labels into words: str(label), or better ones. Leave empty rows out.",
            )
    counts = Counter(label for _, label in examples)
    if len(counts) < 2:
        only = f"All {len(examples)} have the label {next(iter(counts))!r}." if counts else ""
        raise CourseError(
            "There is nothing to learn: " + ("only one label." if counts else "no examples."),
            only,
            "Add examples of at least two labels.",
        )
    return counts


def _readable(text: str) -> bool:
    """Whether there is something to see in a text, and no half character."""
    return bool(visible(text)) and not any("\ud800" <= c <= "\udfff" for c in text)


# Letters of other alphabets, digits, dashes and quotes that look like a plain one; and a mark that
# only asks for an emoji's colours
_TWINS = str.maketrans(
    "АВЕЅКМНОРСТУХІЈаеорсухіјѕһԁɡΑΒΕΖΗΙΚΜΝΟΡΤΥΧονІ|0ı‐‒–—−’‘ʼ",
    "ABESKMHOPCTYXIJaeopcyxijshdgABEZHIKMNOPTYXovIlOi-----'''",
    "\ufe0f",
)


def _looks(label: str) -> set[str]:
    """What a label looks like; labels that share one of these are taken for each other."""
    plain = re.sub(r"^(-?\d+)\.0+$", r"\1", visible(unicodedata.normalize("NFKC", label)))
    plain = re.sub(r"(?<=\w)[-_ ]+(?=\w)", " ", plain.translate(_TWINS).replace("_", " "))
    plain = plain.strip(" .!,;:'\"“”`") or plain
    return {plain.casefold(), plain.replace("I", "l").replace("1", "l").casefold()}


def _check_labels(labels: list[str], tokenizer: Any) -> None:
    """Raise `CourseError` unless the model can say each label, and say it apart from the others."""
    looks: dict[str, str] = {}
    for label in labels:
        twins = [looks.setdefault(look, label) for look in _looks(label)]
        twin = next((one for one in twins if one != label), label)
        ids = tokenizer(label, add_special_tokens=False)["input_ids"]
        said = tokenizer.decode(ids, skip_special_tokens=True).strip()
        if twin != label:
            why = f"It looks the same as {twin!r}: {_difference(twin, label)}."
        elif parser([label])(label) != label or label.casefold() == UNPARSED:
            why = "As a reply it could not be told from one that names no label."
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


def _difference(one: str, other: str) -> str:
    """In what two labels that look alike differ."""
    if one.casefold() == other.casefold():
        return "it differs in capitals only"
    odd = unseen(one + other)
    names = [unicodedata.name(c, "?") for c in sorted(set(one) ^ set(other))]
    return f"it differs in {', '.join(odd or names) or 'the order or number of its characters'}"


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
