"""Lesson 01: exercises and self-test. Everything is checked offline, without a server."""

import numbers
from collections.abc import Callable
from functools import cache
from typing import Any

from course_utils import models
from course_utils.checks import Exercise, Question, Wrong
from course_utils.exercises import returned, sending
from course_utils.sentiment import UNPARSED, label_probabilities, messages, parse_label

SURE = 0.95  # above it Pocket Llama errs in 6 of the course's 400 reviews (measured)


@cache
def _pocket() -> tuple[Any, Any]:
    """Pocket Llama and its tokenizer, to read a learner's example with."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(models.POCKET, dtype="float32")
        return model, AutoTokenizer.from_pretrained(models.POCKET)
    finally:
        if bars:
            logging.enable_progress_bar()


def _check_example(review: str, asked: tuple[str, str], example: Any, answer: Any) -> None:
    """Raise `Wrong` unless `example` and `answer` show how to reply to another review.

    `asked` is what the last message says before and after the review: an example looks the same.
    """
    before, after = asked
    if not isinstance(example, str) or not isinstance(answer, str):
        raise Wrong(f"An example's contents should be text; yours are {example!r} and {answer!r}.")
    if review in example:
        raise Wrong("The example should be another review, not the one to judge.")
    text = example.removeprefix(before).removesuffix(after).strip()
    if not (example.startswith(before) and example.endswith(after) and text):
        raise Wrong(
            f"The last message reads {before + review + after!r}; an example should look the same, "
            f"with another review in it. Yours reads {example!r}."
        )
    label = parse_label(answer)
    if label == UNPARSED:
        raise Wrong(
            f"The assistant's message should be an answer as you want it, with one label; "
            f"no single label can be read in {answer!r}."
        )
    found = label_probabilities(*_pocket(), messages(text))
    likely = max(found, key=lambda name: found[name])
    if likely != label and found[likely] > SURE:
        raise Wrong(
            f"Your example calls {text!r} {label}. Pocket Llama is sure that it is {likely} "
            f"({found[likely]:.2f}): check the label, or take a clearer review."
        )


def _few_shot(answer: Callable[[str], Any]) -> str:
    """few_shot(review): messages with one or more examples in them, then the review."""
    for review in ("The lamp flickers since day one.", "Quick delivery and a lovely colour."):
        got = answer(review)
        if not isinstance(got, list | tuple) or not all(isinstance(m, dict) for m in got):
            raise Wrong(f"It should return a list of dictionaries; it returned {got!r}.")
        for message in got:
            if not {"role", "content"} <= set(message):
                raise Wrong(f"A message needs a role and a content; this one is {message}.")
        roles = [m["role"] for m in got]
        if roles[:1] not in (["system"], ["developer"]):
            raise Wrong(f"The first message should be the system's, not {roles[:1]}.")
        if not isinstance(got[0]["content"], str) or not got[0]["content"].strip():
            raise Wrong("The system message says nothing.")
        if roles[1:] != ["user", "assistant"] * (len(roles) // 2 - 1) + ["user"] or len(got) < 4:
            raise Wrong(
                "After the first message come examples, each a user's and an assistant's message, "
                f"and then the user's with the review; yours: {roles}."
            )
        last = got[-1]["content"]
        if not isinstance(last, str) or last.count(review) != 1:
            raise Wrong(f"The last message should hold the review {review!r}; it is {last!r}.")
        before, _, after = last.partition(review)
        for example, shown in zip(got[1:-1:2], got[2:-1:2], strict=True):
            _check_example(review, (before, after), example["content"], shown["content"])
    return "To the model it looks like its own earlier answer, so it goes on in that manner."


FENCED = 'Here you are:\n```json\n{\n  "sentiment": "negative",\n  "reason": "it broke"\n}\n```'
NOTHING = (UNPARSED, "")
REPLIES: list[tuple[str, tuple[str, str], str]] = [
    ('{"sentiment": "positive", "reason": "great"}', ("Positive", "great"), "plain JSON"),
    ('{"sentiment": "NEUTRAL", "reason": ""}', ("Neutral", ""), "a label in capitals"),
    (FENCED, ("Negative", "it broke"), "JSON in a code fence after a sentence"),
    (
        '{"sentiment": "negative", "reason": "it broke"}\nI hope this helps!',
        ("Negative", "it broke"),
        "JSON before a sentence",
    ),
    (
        '{"reason": "nothing positive :-}", "sentiment": "negative"}',
        ("Negative", "nothing positive :-}"),
        "a reason with another label and a brace in it",
    ),
    ('{"sentiment": "positive"}', ("Positive", ""), "JSON without a reason"),
    ('{"sentiment": "positive", "rea', NOTHING, "JSON that is cut off"),
    ("I only read reviews.", NOTHING, "a reply without JSON"),
    ("The sentiment is positive.", NOTHING, "a label without JSON"),
    ("", NOTHING, "an empty reply"),
    ('["positive", "great"]', NOTHING, "a list in place of an object"),
    ('{"sentiment": "furious", "reason": "x"}', NOTHING, "a label that is none of the three"),
    ('{"sentiment": "not positive", "reason": "x"}', NOTHING, "a label that is denied"),
    ('{"sentiment": 5, "reason": "x"}', NOTHING, "a number for a label"),
    ('{"mood": "positive"}', NOTHING, "JSON without the key sentiment"),
]


def _read_json(answer: Callable[[str], Any]) -> str:
    """read_json(reply): (label, reason), (UNPARSED, "") where there is no such answer."""
    for reply, right, what in REPLIES:
        try:
            got = answer(reply)
        except Exception as error:
            name = type(error).__name__
            raise Wrong(f"It stops with {name} on {what}: {reply!r}.") from None
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Wrong(f"On {what} it should return two things, label and reason, not {got!r}.")
        if tuple(got) != right:
            raise Wrong(f"On {what} it returned {tuple(got)!r}. The reply was {reply!r}.")
    return f"{len(REPLIES)} kinds of reply, and none of them stops your program."


def _affordable(answer: Callable[[float, float, float, dict[str, float]], Any]) -> str:
    """affordable(budget, tokens_in, tokens_out, price): whole reviews."""
    cases = [
        (3000.0, 40, 2, {"input": 2.0, "output": 2.0}),
        (3000.0, 100, 60, {"input": 0.25, "output": 2.0}),
        (10.0, 40, 2, {"input": 2.0, "output": 2.0}),
        (0.0, 100, 50, {"input": 0.25, "output": 2.0}),
    ]
    remark = "Knowing that before the run is cheaper than after it."
    for budget, inside, outside, price in cases:
        got: Any = answer(budget, inside, outside, price)
        told = f"For ${budget:g}, {inside} tokens in and {outside} out at {price} it returned {got}"
        found = returned.number(
            got, f"{told}. It should return a number, not {type(got).__name__}."
        )
        millions = budget * 1e6
        cost = inside * price["input"] + outside * price["output"]
        right = millions / cost // 1
        if found != right:
            faults = {
                "prices are for a million tokens": budget / cost,
                "half a review cannot be bought, so round down": right + 1,
                "what comes out has a price of its own": millions
                / ((inside + outside) * price["input"]),
                "what comes out is paid for too": millions / (inside * price["input"]),
                "the two prices have changed places": millions
                / (inside * price["output"] + outside * price["input"]),
            }
            near = (found // 1, -(-found // 1))  # rounded down and up
            why = [f for f, n in faults.items() if budget and n // 1 != right and n // 1 in near]
            raise Wrong(": ".join([told, *why[:1]]) + ".")
        if not isinstance(got, numbers.Integral):
            remark = f"A whole number, as {type(got).__name__}; int(...) would make it an int."
    return remark


EXERCISES = {
    "01.1": Exercise(
        "show an example",
        _few_shot,
        (
            "Four messages: what the model is for, an example, how it should answer, the review.",
            'The roles are "system", "user", "assistant", "user", in this order.',
            'The assistant\'s message is {"role": "assistant", "content": "Negative"}, or '
            "another label that fits your example.",
        ),
    ),
    "01.2": Exercise(
        "read JSON",
        _read_json,
        (
            "Cut out what stands between the first { and the last }, then json.loads it.",
            "json.loads raises a ValueError on bad JSON; a missing key is best read with .get.",
            'start, end = reply.find("{"), reply.rfind("}") + 1; inside try: '
            "data = json.loads(reply[start:end]); then check that the label is one of LABELS.",
        ),
    ),
    "01.3": Exercise(
        "what a budget buys",
        _affordable,
        (
            "First the price of one review, as in section 11; then divide.",
            "One review: (tokens in x price in + tokens out x price out) / 1,000,000.",
            "int(budget / dollars_per_review) cuts off what is not a whole review.",
        ),
    ),
    "01.4": Exercise(
        "be patient",
        sending.patient,
        (
            "A loop over five tries; in it try: return call() and except openai.RateLimitError.",
            'error.response.headers.get("retry-after") is the text of the header, or None.',
            "sleep(float(wait or 5)) between two tries; after the last one, raise.",
        ),
        patience=60,  # who sleeps in earnest is told so
    ),
    "01.5": Exercise(
        "many at once, in order",
        sending.in_order,
        (
            "asyncio.Semaphore(at_once) lets only so many into its `async with` block.",
            "Write an inner `async def one(review)` that waits for the semaphore, then for ask.",
            "await asyncio.gather(*(one(review) for review in reviews)) keeps the order.",
        ),
    ),
}

QUIZ = [
    Question(
        "You send a second question to the same chat. How does the server know the first one?",
        (
            (
                "It keeps the conversation under your key, for as long as the session lasts.",
                "There is no session: every request stands alone.",
            ),
            (
                "It does not: you send the whole conversation again.",
                "So a long conversation costs more with every turn.",
            ),
            (
                "The client sends the number of the first reply.",
                "Another interface works that way. Chat Completions gets messages, all of them.",
            ),
        ),
        1,
    ),
    Question(
        "finish_reason is 'length'. What happened?",
        (
            (
                "The reply was cut off at its limit.",
                "You or the model set that limit; the last sentence may be half a sentence.",
            ),
            (
                "The model ended its reply by itself.",
                "Then finish_reason is 'stop'.",
            ),
            (
                "Your prompt was too long for the model.",
                "That is an error, 400: there is no reply at all.",
            ),
        ),
        0,
    ),
    Question(
        "Which error is worth a retry?",
        (
            (
                "401, the wrong key",
                "The key is as wrong a second later.",
            ),
            (
                "404, no model of that name",
                "No waiting makes the model appear: change the name.",
            ),
            (
                "429, too many requests",
                "Waiting helps here, and against time-outs and the server's own errors (5xx).",
            ),
        ),
        2,
    ),
    Question(
        "A reply holds no label. What should the program do?",
        (
            (
                "Take Neutral for it, the safe choice of the three.",
                "Then your figures hold labels that nobody gave, and nobody can count them.",
            ),
            (
                "Mark it as unparsed, count it, and look at it.",
                "Only then can you see how often it happens, and why.",
            ),
            (
                "Ask again until a label comes.",
                "At temperature 0 the same question gets the same reply, at the same price.",
            ),
        ),
        1,
    ),
    Question(
        "Your API bill is the same per review on a full day and on an empty one. "
        "And a rented GPU's?",
        (
            (
                "The same as well: a review is a review.",
                "The GPU is paid by the hour, whether reviews come or not.",
            ),
            (
                "Lower on the empty day: it has less to do.",
                "It costs the same for the day, shared by fewer reviews.",
            ),
            (
                "Higher on the empty day: you pay by the hour.",
                "That is why break-even is a number of reviews per hour.",
            ),
        ),
        2,
    ),
]
