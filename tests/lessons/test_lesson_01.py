import asyncio
import json

import openai
import pytest

from course_utils import checks, data
from course_utils.sentiment import LABELS, UNPARSED

ROW = {"input", "output", "model", "date", "status", "source"}


def verdict(key, answer, capsys):
    """What `check` prints about an answer."""
    checks.check(key, answer)
    return capsys.readouterr().out


def user(content):
    return {"role": "user", "content": content}


def system():
    return {"role": "system", "content": "You analyze sentiment."}


def shot(answer, text="The handle came off."):
    return [user(text), {"role": "assistant", "content": answer}]


FEW_SHOT = {
    "Between them": lambda review: [system(), user(review)],
    "list of dictionaries": lambda review: review,
    "a role and a content": lambda review: [{"system": "x"}, user(review)],
    "first message": lambda review: [*shot("Negative"), user(review)],
    "last message": lambda review: [system(), *shot("Negative"), user(f"Review: {review}")],
    "one label": lambda review: [system(), *shot("It is negative."), user(review)],
    "another review": lambda review: [system(), *shot("Negative", review), user(review)],
}


@pytest.mark.parametrize("fault", FEW_SHOT)
def test_few_shot_names_the_fault(fault, capsys):
    """A learner whose example is incomplete, in the wrong order, or the review itself."""
    said = verdict("01.1", FEW_SHOT[fault], capsys)
    assert "not yet" in said
    assert fault in said


def naive_json(reply):
    answer = json.loads(reply)
    return answer["sentiment"].capitalize(), answer["reason"]


def guessing_json(reply):
    try:
        return naive_json(reply[reply.find("{") : reply.rfind("}") + 1])
    except ValueError:
        return "Neutral", ""


def test_read_json_finds_the_reply_that_stops_it(capsys):
    """A learner whose function works on good JSON only: told on which reply it stops."""
    assert "stops with JSONDecodeError on JSON in a code fence" in verdict(
        "01.2", naive_json, capsys
    )


def test_read_json_does_not_accept_a_guess(capsys):
    """A learner who falls back to Neutral, which would look like a result."""
    assert "cut off it returned ('Neutral', '')" in verdict("01.2", guessing_json, capsys)


def test_read_json_wants_both_parts(capsys):
    """A learner who returns the label alone."""
    assert "two things" in verdict("01.2", lambda reply: "Positive", capsys)


def per_review(tokens_in, tokens_out, price):
    return (tokens_in * price["input"] + tokens_out * price["output"]) / 1e6


AFFORDABLE = {
    "for a million tokens": lambda b, i, o, p: int(b / (per_review(i, o, p) * 1e6)),
    "round down": lambda b, i, o, p: b / per_review(i, o, p),
    "not NoneType": lambda b, i, o, p: [].sort(),
    "make it a whole number": lambda b, i, o, p: b // per_review(i, o, p),
    "price of its own": lambda b, i, o, p: int(b * 1e6 / ((i + o) * p["input"])),
}


@pytest.mark.parametrize("fault", AFFORDABLE)
def test_affordable_names_the_fault(fault, capsys):
    """A learner who forgets the million, the second price, or that reviews are whole."""
    said = verdict("01.3", AFFORDABLE[fault], capsys)
    assert "not yet" in said
    assert fault in said


def gives_up(call, sleep):
    return call()


def impatient(call, sleep):
    for _ in range(5):
        try:
            return call()
        except openai.RateLimitError:
            sleep(1)


def endless(call, sleep):
    for n in range(8):
        try:
            return call()
        except openai.RateLimitError as error:
            if n == 7:
                raise
            sleep(float(error.response.headers.get("retry-after", 5)))


def catches_all(call, sleep):
    for n in range(5):
        try:
            return call()
        except Exception as error:
            if n == 4:
                raise
            response = getattr(error, "response", None)
            sleep(float(response.headers.get("retry-after", 5) if response else 5))


PATIENT = {
    "gives up too soon": gives_up,
    "Retry-After said 3, then 7": impatient,
    "made 8": endless,
    "let it out at once": catches_all,
}


@pytest.mark.parametrize("fault", PATIENT)
def test_patient_names_the_fault(fault, capsys):
    """A learner who ignores the header, never gives up, or retries what stays wrong."""
    assert fault in verdict("01.4", PATIENT[fault], capsys)


async def one_by_one(ask, reviews, at_once):
    return [await ask(review) for review in reviews]


async def unbounded(ask, reviews, at_once):
    return await asyncio.gather(*(ask(review) for review in reviews))


async def as_they_come(ask, reviews, at_once):
    limit = asyncio.Semaphore(at_once)

    async def one(review):
        async with limit:
            return await ask(review)

    return [await done for done in asyncio.as_completed([one(review) for review in reviews])]


async def too_few(ask, reviews, at_once):
    return await asyncio.gather(*(ask(review) for review in reviews[:at_once]))


IN_ORDER = {
    "async def": lambda ask, reviews, at_once: [],
    "one after another": one_by_one,
    "there were 12 under way": unbounded,
    "not in the order": as_they_come,
    "returned 4 replies": too_few,
}


@pytest.mark.parametrize("fault", IN_ORDER)
def test_in_order_names_the_fault(fault, capsys):
    """A learner whose requests are unbounded, one by one, or come back shuffled."""
    assert fault in verdict("01.5", IN_ORDER[fault], capsys)


def test_in_order_can_be_checked_where_a_loop_is_running(capsys):
    """A learner in a notebook, whose kernel runs an event loop already."""

    async def in_a_notebook():
        checks.check("01.5", one_by_one)

    asyncio.run(in_a_notebook())
    assert "one after another" in capsys.readouterr().out


def test_labels_of_the_course_are_what_the_exercise_accepts():
    """A learner whose answer is right in the lesson must be right in the check."""
    assert {"Positive", "Negative", "Neutral"} == set(LABELS)
    assert UNPARSED not in LABELS


def test_every_price_has_a_date_and_a_source():
    """A learner who plans with a price must see how old it is and where it was read."""
    prices = data.table("prices")
    for row in prices["models"]:
        assert set(row) == ROW
        assert row["input"] > 0 and row["output"] > 0
        assert row["date"] <= prices["read"]
        assert row["source"].startswith("https://")
    gpu = prices["gpu"]
    assert gpu["dollars_per_hour"] > 0
    assert gpu["date"] and gpu["source"] and "assumption" in gpu["note"]
