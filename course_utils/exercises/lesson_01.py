"""Lesson 01: exercises and self-test. Everything is checked offline, without a server."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from course_utils.checks import Exercise, Question, Wrong
from course_utils.sentiment import UNPARSED


def _few_shot(answer: Callable[[str], Any]) -> str:
    """few_shot(review): messages with an example in them, then the review."""
    review = "The lamp flickers since day one."
    got = answer(review)
    if not isinstance(got, list) or not all(isinstance(m, dict) for m in got):
        raise Wrong("It should return a list of dictionaries.")
    for message in got:
        if set(message) != {"role", "content"}:
            raise Wrong(
                f"A message needs exactly a role and a content, this one has {set(message)}."
            )
    roles = [m["role"] for m in got]
    if roles[:1] != ["system"]:
        raise Wrong(f"The first message should be the system's, not {roles[:1]}.")
    if got[-1] != {"role": "user", "content": review}:
        raise Wrong("The last message should be the user's, with the review and nothing else.")
    if roles != ["system", "user", "assistant", "user"]:
        raise Wrong(f"Between them belong one user's and one assistant's message; yours: {roles}.")
    if got[2]["content"] not in ("Positive", "Negative", "Neutral"):
        raise Wrong("The assistant's message should be an answer as you want it: one label.")
    if review in got[1]["content"]:
        raise Wrong("The example should be another review, not the one to judge.")
    return "To the model it looks like its own earlier answer, so it goes on in that manner."


def _read_json(answer: Callable[[str], Any]) -> str:
    """read_json(reply): (label, reason), (UNPARSED, "") where there is no such answer."""
    nothing = (UNPARSED, "")
    cases: list[tuple[str, Any, str]] = [
        ('{"sentiment": "positive", "reason": "great"}', ("Positive", "great"), "plain JSON"),
        ('{"sentiment": "NEUTRAL", "reason": ""}', ("Neutral", ""), "a label in capitals"),
        (
            'Here you are:\n```json\n{"sentiment": "negative", "reason": "it broke"}\n```',
            ("Negative", "it broke"),
            "JSON in a code fence after a sentence",
        ),
        ('{"sentiment": "positive", "rea', nothing, "JSON that is cut off"),
        ("I only read reviews.", nothing, "a reply without JSON"),
        ('{"sentiment": "furious", "reason": "x"}', nothing, "a label that is none of the three"),
        ('{"mood": "positive"}', nothing, "JSON without the key sentiment"),
        ('{"sentiment": "positive"}', ("Positive", ""), "JSON without a reason"),
    ]
    for reply, right, what in cases:
        try:
            got = answer(reply)
        except Exception as error:
            raise Wrong(f"It stops with {type(error).__name__} on {what}.") from None
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Wrong(f"On {what} it should return two things: label and reason.")
        if tuple(got) != right:
            raise Wrong(f"On {what} it returned {tuple(got)!r}.")
    return "Eight kinds of reply, and none of them stops your program."


def _affordable(answer: Callable[[float, float, float, dict[str, float]], Any]) -> str:
    """affordable(budget, prompt_tokens, completion_tokens, price): whole reviews."""
    cases = [
        ((10.0, 40, 2, {"input": 2.0, "output": 2.0}), 119_047),
        ((1.0, 100, 60, {"input": 0.25, "output": 2.0}), 6_896),
        ((0.0, 100, 50, {"input": 0.25, "output": 2.0}), 0),
    ]
    for (budget, inside, outside, price), right in cases:
        got = answer(budget, inside, outside, price)
        told = f"For ${budget:g}, {inside} tokens in and {outside} out at {price} it returned {got}"
        if not isinstance(got, int | float):
            raise Wrong(f"It should return a number, not {type(got).__name__}.")
        if got == right:
            if not isinstance(got, int):
                raise Wrong("Nearly: make it a whole number (an int).")
            continue
        if right and abs(got * 1_000_000 - right) < 1_000_000:
            raise Wrong(f"{told}: prices are for a million tokens.")
        if right < got <= right + 1:
            raise Wrong(f"{told}: half a review cannot be bought, so round down.")
        if right and budget * 1e6 / ((inside + outside) * price["input"]) // 1 == got // 1:
            raise Wrong(f"{told}: what comes out has a price of its own.")
        raise Wrong(f"{told}.")
    return "Knowing that before the run is cheaper than after it."


def _rate_limit(wait: str | None) -> Exception:
    """An error as the client raises it on a 429, with this `Retry-After` header or none."""
    import openai

    headers = {} if wait is None else {"retry-after": wait}
    response: Any = SimpleNamespace(status_code=429, headers=headers, request=None)
    return openai.RateLimitError("Rate limit reached", response=response, body=None)


def _patient(answer: Callable[[Callable[[], str], Callable[[float], None]], Any]) -> str:
    """patient(call, sleep): waits as told, up to five calls, and passes on other errors."""

    def play(script: list[Any]) -> tuple[Any, list[float], int]:
        waits: list[float] = []
        turns = iter(script)
        calls = 0

        def call() -> str:
            nonlocal calls
            calls += 1
            turn = next(turns, "answered too late")
            if isinstance(turn, Exception):
                raise turn
            return turn

        try:
            got: Any = answer(call, waits.append)
        except Exception as error:
            got = error
        return got, waits, calls

    import openai

    got, waits, _ = play(["done"])
    if got != "done" or waits:
        raise Wrong("When the first call succeeds, return its answer without waiting.")
    got, waits, _ = play([_rate_limit("3"), _rate_limit("7"), "done"])
    if isinstance(got, openai.RateLimitError):
        raise Wrong("It gives up too soon: refused twice, then answered, and it raised the error.")
    if got != "done":
        raise Wrong(f"Refused twice, then answered: it should return the answer, not {got!r}.")
    if [float(w) for w in waits] != [3.0, 7.0]:
        raise Wrong(f"Retry-After said 3, then 7 seconds; it waited {waits}.")
    got, waits, _ = play([_rate_limit(None), "done"])
    if got != "done" or len(waits) != 1 or not 0 < float(waits[0]) <= 60:
        raise Wrong("A 429 without Retry-After: wait some seconds of your own choice.")
    got, waits, calls = play([_rate_limit("1")] * 9)
    if not isinstance(got, openai.RateLimitError) or calls != 5:
        raise Wrong(f"Refused for ever: after five calls the error should come out; made {calls}.")
    got, waits, calls = play([KeyError("x"), "done"])
    if not isinstance(got, KeyError) or calls != 1:
        raise Wrong("Any other error is not helped by waiting: let it out at once.")
    return "The client does this for you with max_retries; now you know what it does."


def _in_order(answer: Callable[..., Awaitable[Any]]) -> str:
    """in_order(ask, reviews, at_once): replies in order, never more than so many under way."""
    reviews = [f"review {i}" for i in range(12)]
    now = most = 0

    async def ask(review: str) -> str:
        nonlocal now, most
        now += 1
        most = max(most, now)
        # the later ones are the faster ones, so that they come back in another order
        for _ in range(20 - int(review.split()[1])):
            await asyncio.sleep(0)
        now -= 1
        return review.upper()

    if not asyncio.iscoroutinefunction(answer):
        raise Wrong("It should be an `async def` function.")
    got = _run(answer(ask, reviews, 4))
    if most > 4:
        raise Wrong(f"With at_once=4 there were {most} under way at the same time.")
    if most == 1:
        raise Wrong("It asks one after another: nothing is gained.")
    if list(got or []) == [] or not isinstance(got, list | tuple):
        raise Wrong("It should return the list of replies.")
    if sorted(got) != sorted(r.upper() for r in reviews):
        raise Wrong(f"For 12 reviews it returned {len(got)} replies, or replies to other texts.")
    if list(got) != [r.upper() for r in reviews]:
        raise Wrong("The replies are all there, but not in the order of the reviews.")
    if most < 4:
        raise Wrong(f"Four may be under way at once; yours never has more than {most}.")
    return "Twelve reviews, never more than four under way, every reply in its place."


def _run(awaitable: Awaitable[Any]) -> Any:
    """Run it in a loop of its own: a notebook's main thread already has one running."""
    result: dict[str, Any] = {}

    async def wrapped() -> Any:
        return await asyncio.wait_for(awaitable, timeout=10)

    def run() -> None:
        try:
            result["value"] = asyncio.run(wrapped())
        except BaseException as error:
            result["error"] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(result.get("error"), TimeoutError):
        raise Wrong("It does not come to an end.")
    if "error" in result:
        raise result["error"]
    return result["value"]


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
        _patient,
        (
            "A loop over five tries; in it try: return call() and except openai.RateLimitError.",
            'error.response.headers.get("retry-after") is the text of the header, or None.',
            "sleep(float(wait or 5)) between two tries; after the last one, raise.",
        ),
    ),
    "01.5": Exercise(
        "many at once, in order",
        _in_order,
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
