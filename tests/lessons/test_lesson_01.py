"""Lesson 01's exercises, tried with right and wrong answers; and its prices."""

import asyncio
import json
import re
from types import SimpleNamespace

import openai
import pytest

from course_staff.notebooks import store as notebooks
from course_utils import checks, data
from course_utils.sentiment import LABELS, UNPARSED, parse_label

ROW = {"input", "output", "model", "date", "status", "source", "second_hand"}


# -- 01.1: a few examples --------------------------------------------------------------------------


def say(role, content):
    return {"role": role, "content": content}


SYSTEM = say("system", "You analyze sentiment.")
BROKEN = "The handle came off on the first day."
LOVED = "I love it, works like a charm."
JSON = '{"sentiment": "negative", "reason": "it broke"}'


def shot(answer, text=BROKEN):
    return [say("user", text), say("assistant", answer)]


def around(*examples, system=SYSTEM, form="{}"):
    """few_shot(review) with these examples before the review, which is put into `form`."""
    return lambda review: [system, *sum(examples, []), say("user", form.format(review))]


FEW_SHOT_RIGHT = [
    around(shot("Negative")),
    around(shot("Negative"), shot("Positive", LOVED)),
    around(shot("Negative"), shot("Positive", LOVED), shot("Neutral", "The shop opens at nine.")),
    around(shot("Negative"), system=say("developer", "Answer with one word.")),
    around(shot(JSON), system=say("system", "Answer in JSON.")),
    around(shot("negative")),
    around(shot("Negative", f"Review: {BROKEN}"), form="Review: {}"),
    around(
        shot("Negative", f'What is the sentiment of "{BROKEN}"?'),
        form='What is the sentiment of "{}"?',
    ),
    lambda review: tuple(around(shot("Negative"))(review)),
]
FEW_SHOT_WRONG = [
    (around(), "yours: ['system', 'user']"),
    (lambda review: review, "it returned 'The lamp flickers"),
    (lambda review: [{"system": "x"}, say("user", review)], "this one is {'system': 'x'}"),
    (
        lambda review: [*shot("Negative"), say("user", review)],
        "system's, not ['user']",
    ),
    (around(shot("Negative"), system=say("system", "")), "system message says nothing"),
    (around(shot("Negative"), form="What is it?"), "it is 'What is it?'"),
    (around(shot("Negative"), form="Review: {}"), "The last message reads 'Review: The lamp"),
    (around(shot("It broke.")), "no single label can be read in 'It broke.'"),
    (around(shot("Positive or negative")), "no single label"),
    (around(shot("Positive")), "calls 'The handle came off on the first day.' Positive"),
    (around(shot("Negative"), shot("Negative", LOVED)), f"calls {LOVED!r} Negative"),
    (around(shot("Neutral", LOVED)), "is sure that it is Positive"),
    (lambda review: around(shot("Negative", review))(review), "another review"),
    (around(shot("Negative", "")), "reads ''"),
    (around([say("assistant", "Negative"), say("user", BROKEN)]), "yours: ['system', 'assistant'"),
    (lambda review: [*around(shot("Negative"))(review), say("assistant", "")], "yours:"),
    (
        lambda review: around(shot("Negative"))("The lamp flickers since day one."),
        "should hold the review 'Quick",
    ),
    (around(shot(None)), "should be text"),
]


# -- 01.2: JSON that may be none -------------------------------------------------------------------


def from_first_to_last(reply):
    try:
        answer = json.loads(reply[reply.find("{") : reply.rfind("}") + 1])
    except ValueError:
        return UNPARSED, ""
    label = str(answer.get("sentiment", "")).capitalize()
    return (label, answer.get("reason", "")) if label in LABELS else (UNPARSED, "")


def by_regex(reply):
    found = re.search(r"\{.*\}", reply, re.DOTALL)
    try:
        answer = json.loads(found[0])
        label = {name.lower(): name for name in LABELS}[answer["sentiment"].lower()]
    except Exception:
        return [UNPARSED, ""]
    return [label, answer.get("reason") or ""]


def with_a_decoder(reply):
    for start in (i for i, letter in enumerate(reply) if letter == "{"):
        try:
            answer, _ = json.JSONDecoder().raw_decode(reply[start:])
        except ValueError:
            continue
        label = answer.get("sentiment")
        if isinstance(label, str) and label.title() in LABELS:
            return label.title(), answer.get("reason", "")
    return UNPARSED, ""


def with_parse_label(reply):
    try:
        answer = json.loads("{" + reply.split("{", 1)[1].rsplit("}", 1)[0] + "}")
        word = answer["sentiment"]
        label = parse_label(word) if word.lower().title() in LABELS else UNPARSED
        return label, answer.get("reason", "") if label != UNPARSED else ""
    except (ValueError, IndexError, KeyError, AttributeError):
        return UNPARSED, ""


def in_steps(reply):
    start, end = reply.find("{"), reply.rfind("}")
    if start < 0 or end < 0:
        return UNPARSED, ""
    try:
        answer = json.loads(reply[start : end + 1])
    except json.JSONDecodeError:
        return UNPARSED, ""
    if not isinstance(answer, dict) or not isinstance(answer.get("sentiment"), str):
        return UNPARSED, ""
    for label in LABELS:
        if answer["sentiment"].lower() == label.lower():
            return label, answer.get("reason", "")
    return UNPARSED, ""


def naive(reply):
    answer = json.loads(reply)
    return answer["sentiment"].capitalize(), answer["reason"]


def changed(good, **cases):
    """A right function that goes wrong where one of the texts in `cases` is its answer's."""

    def read(reply):
        label, reason = good(reply)
        return cases["answer"](label, reason, reply)

    return read


READ_JSON_RIGHT = [from_first_to_last, by_regex, with_a_decoder, with_parse_label, in_steps]
READ_JSON_WRONG = [
    (naive, "stops with JSONDecodeError on JSON in a code fence"),
    (lambda reply: "Positive", "not 'Positive'"),
    (lambda reply: (parse_label(reply), ""), "On plain JSON it returned ('Positive', '')"),
    (
        changed(
            from_first_to_last,
            answer=lambda label, reason, _: ("Neutral" if label == UNPARSED else label, reason),
        ),
        "cut off it returned ('Neutral', '')",
    ),
    (
        changed(from_first_to_last, answer=lambda label, reason, _: (label.lower(), reason)),
        "('positive', 'great')",
    ),
    (
        changed(from_first_to_last, answer=lambda label, reason, _: (label, reason or None)),
        "('Neutral', None)",
    ),
    (changed(from_first_to_last, answer=lambda label, reason, _: (label, reason, 1)), "two things"),
    (
        changed(
            from_first_to_last, answer=lambda label, reason, reply: (parse_label(reply), reason)
        ),
        "it returned (",
    ),
    (
        changed(
            from_first_to_last,
            answer=lambda label, reason, reply: (
                (label, reason) if "{" in reply else (parse_label(reply), "")
            ),
        ),
        "The reply was 'The sentiment is positive.'",
    ),
    (lambda reply: by_regex(reply) if "\n" not in reply else [UNPARSED, ""], "in a code fence"),
    (
        lambda reply: from_first_to_last(reply) if reply else 1 / 0,
        "stops with ZeroDivisionError on an empty reply",
    ),
    (
        lambda reply: next(
            ((one, json.loads(reply)["reason"]) for one in LABELS if one.lower() in reply),
            (UNPARSED, ""),
        ),
        "On a label in capitals it returned",
    ),
    (
        lambda reply: ("Positive", "x") if "not positive" in reply else from_first_to_last(reply),
        "On a label that is denied it returned",
    ),
    (lambda reply: None, "not None"),
]


# -- 01.3: what a budget buys ----------------------------------------------------------------------


def per_review(tokens_in, tokens_out, price):
    return (tokens_in * price["input"] + tokens_out * price["output"]) / 1e6


def with_numpy(b, i, o, p):
    import numpy

    return numpy.int64(b / per_review(i, o, p))


def with_fractions(b, i, o, p):
    from fractions import Fraction

    cost = Fraction(i) * Fraction(p["input"]) + Fraction(o) * Fraction(p["output"])
    return Fraction(b) * 1_000_000 // cost


def by_buying(b, i, o, p):
    import math

    return math.floor(b * 1e6 / (i * p["input"] + o * p["output"]))


AFFORDABLE_RIGHT = [
    lambda b, i, o, p: int(b / per_review(i, o, p)),
    lambda b, i, o, p: b // per_review(i, o, p),
    lambda b, i, o, p: int(1_000_000 * b / (i * p["input"] + o * p["output"])),
    with_numpy,
    with_fractions,
    by_buying,
]
AFFORDABLE_WRONG = [
    (lambda b, i, o, p: int(b / (per_review(i, o, p) * 1e6)), "for a million tokens"),
    (lambda b, i, o, p: b / per_review(i, o, p), "round down"),
    (lambda b, i, o, p: round(b / per_review(i, o, p)), "round down"),
    (lambda b, i, o, p: int(b / per_review(i, o, p)) + 1, "round down"),
    (lambda b, i, o, p: [].sort(), "not NoneType"),
    (lambda b, i, o, p: str(int(b / per_review(i, o, p))), "not str"),
    (lambda b, i, o, p: int(b * 1e6 / ((i + o) * p["input"])), "price of its own"),
    (lambda b, i, o, p: int(b * 1e6 / (i * p["input"])), "what comes out is paid for too"),
    (lambda b, i, o, p: int(b / per_review(o, i, p)), "changed places"),
    (lambda b, i, o, p: 0, "out at {'input': 2.0, 'output': 2.0} it returned 0."),
    (lambda b, i, o, p: int(b * per_review(i, o, p)), "it returned 0."),
    (lambda b, i, o, p: b > per_review(i, o, p), "not bool"),
]


# -- 01.4: be patient ------------------------------------------------------------------------------


def patiently(
    header=lambda headers: headers.get("retry-after"), tries=5, error=openai.RateLimitError
):
    """A right answer, with one part of it changed."""

    def patient(call, sleep):
        for left in reversed(range(tries)):
            try:
                return call()
            except error as refused:
                if not left:
                    raise
                sleep(float(header(refused.response.headers) or 5))

    return patient


def with_while(call, sleep):
    calls = 0
    while True:
        calls += 1
        try:
            return call()
        except openai.RateLimitError as error:
            if calls == 5:
                raise error
            headers = error.response.headers
            sleep(int(headers["Retry-After"]) if "Retry-After" in headers else 5)


def recursive(call, sleep, left=4):
    try:
        return call()
    except openai.RateLimitError as error:
        if left == 0:
            raise
        sleep(float(error.response.headers.get("RETRY-AFTER", "5")))
        return recursive(call, sleep, left - 1)


def last_call_apart(call, sleep):
    for _ in range(4):
        try:
            return call()
        except openai.RateLimitError as error:
            try:
                seconds = float(error.response.headers["retry-after"])
            except KeyError:
                seconds = 5
            sleep(seconds)
    return call()


def by_status(call, sleep):
    last = None
    for turn in range(5):
        try:
            return call()
        except openai.APIStatusError as error:
            if error.status_code != 429:
                raise
            last = error
            if turn < 4:
                sleep(float(dict(error.response.headers).get("retry-after", 5)))
    raise last


def impatient(call, sleep):
    for _ in range(5):
        try:
            return call()
        except openai.RateLimitError:
            sleep(1)


def sleeps_after_the_last(call, sleep):
    for n in range(5):
        try:
            return call()
        except openai.RateLimitError as error:
            sleep(float(error.response.headers.get("retry-after", 5)))
            if n == 4:
                raise


def catches_all(call, sleep):
    for n in range(5):
        try:
            return call()
        except Exception as error:
            if n == 4:
                raise
            response = getattr(error, "response", None)
            sleep(float(response.headers.get("retry-after", 5) if response else 5))


def gives_none_at_the_end(call, sleep):
    try:
        return last_call_apart(call, sleep)
    except openai.RateLimitError:
        return None


def in_its_own_words(call, sleep):
    try:
        return last_call_apart(call, sleep)
    except openai.RateLimitError:
        raise RuntimeError("gave up") from None


def sleeps_text(call, sleep):
    try:
        return call()
    except openai.RateLimitError as error:
        sleep(error.response.headers.get("retry-after", 5))
        return call()


def wants_a_true_reply(call, sleep):
    for _ in range(5):
        if reply := patiently()(call, sleep):
            return reply
    return ""


PATIENT_RIGHT = [
    patiently(),
    patiently(lambda headers: headers.get("Retry-After")),
    with_while,
    recursive,
    last_call_apart,
    by_status,
]
PATIENT_WRONG = [
    (lambda call, sleep: call(), "gives up too soon, after 1 calls"),
    (patiently(tries=3), "Refused 4 times with Retry-After 1, 1, 2, 1, then answered"),
    (patiently(tries=8), "RateLimitError came out after 8"),
    (impatient, "with Retry-After 3, 7, then answered: it slept [1, 1] seconds"),
    (sleeps_after_the_last, "it slept 5 times: the last one helps nobody"),
    (sleeps_text, "sleep got the text '3'"),
    (catches_all, "On KeyError 'done' came out after 2 calls"),
    (patiently(error=openai.APIStatusError), "On AuthenticationError 'done' came out"),
    (
        patiently(error=(openai.RateLimitError, openai.InternalServerError)),
        "On InternalServerError",
    ),
    (gives_none_at_the_end, "None came out after 5"),
    (in_its_own_words, "RuntimeError came out after 5"),
    (
        patiently(lambda headers: headers.get("retry-after") or 1),
        "without Retry-After, then an answer: 'done' came out, it slept [1.0]",
    ),
    (
        patiently(lambda headers: headers["retry-after"]),
        "an answer: KeyError came out",
    ),
    (patiently(lambda headers: 3), "it slept [3.0, 3.0]"),
    (wants_a_true_reply, "When the first call returns ''"),
    (lambda call, sleep: sleep(1) or call(), "return that without waiting"),
    (lambda call, sleep: call, "came out after 0 calls"),
]


# -- 01.5: many at once ----------------------------------------------------------------------------


async def with_a_semaphore(ask, reviews, at_once):
    limit = asyncio.Semaphore(at_once)

    async def one(review):
        async with limit:
            return await ask(review)

    return await asyncio.gather(*map(one, reviews))


async def in_slices(ask, reviews, at_once):
    replies = []
    for start in range(0, len(reviews), at_once):
        replies += await asyncio.gather(*map(ask, reviews[start : start + at_once]))
    return replies


async def with_workers(ask, reviews, at_once):
    replies, waiting = [None] * len(reviews), list(enumerate(reviews))

    async def work():
        while waiting:
            place, review = waiting.pop(0)
            replies[place] = await ask(review)

    await asyncio.gather(*(work() for _ in range(at_once)))
    return replies


async def with_a_task_group(ask, reviews, at_once):
    limit = asyncio.BoundedSemaphore(at_once)

    async def one(review):
        await limit.acquire()
        try:
            return await ask(review)
        finally:
            limit.release()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(review)) for review in reviews]
    return tuple(task.result() for task in tasks)


async def sorted_afterwards(ask, reviews, at_once):
    limit = asyncio.Semaphore(at_once)

    async def one(place, review):
        async with limit:
            return place, await ask(review)

    tasks = [one(*pair) for pair in enumerate(reviews)]
    done = [await task for task in asyncio.as_completed(tasks)]
    return [reply for _, reply in sorted(done)]


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


async def always_four(ask, reviews, at_once):
    return await with_a_semaphore(ask, reviews, 4)


async def one_more(ask, reviews, at_once):
    return await with_a_semaphore(ask, reviews, at_once + 1)


async def one_less(ask, reviews, at_once):
    return await with_a_semaphore(ask, reviews, max(2, at_once - 1))


async def not_awaited(ask, reviews, at_once):
    waiting = [ask(review) for review in reviews]
    for one in waiting:
        one.close()
    return waiting


async def by_review(ask, reviews, at_once):
    unique = list(dict.fromkeys(reviews))
    return await with_a_semaphore(ask, unique, at_once)


async def returns_nothing(ask, reviews, at_once):
    await with_a_semaphore(ask, reviews, at_once)


async def asks_twice(ask, reviews, at_once):
    await with_a_semaphore(ask, reviews, at_once)
    return await with_a_semaphore(ask, reviews, at_once)


async def waits_for_ever(ask, reviews, at_once):
    limit = asyncio.Semaphore(at_once)
    for review in reviews:
        await limit.acquire()
        await ask(review)


async def as_pairs(ask, reviews, at_once):
    return list(zip(reviews, await with_a_semaphore(ask, reviews, at_once), strict=True))


IN_ORDER_RIGHT = [with_a_semaphore, in_slices, with_workers, with_a_task_group, sorted_afterwards]
IN_ORDER_WRONG = [
    (lambda ask, reviews, at_once: [], "async def"),
    (one_by_one, "asks one after another"),
    (unbounded, "For 12 reviews and at_once=4 there were 12 under way"),
    (as_they_come, "not in the order"),
    (too_few, "returned 4 replies"),
    (always_four, "at_once=3 there were 4 under way"),
    (one_more, "at_once=4 there were 5 under way"),
    (one_less, "at_once=4 never more than 3"),
    (not_awaited, "it returned [<coroutine"),
    (by_review, "For 9 reviews and at_once=2 it returned 3 replies"),
    (returns_nothing, "it returned None"),
    (asks_twice, "it asked 24 times"),
    (as_pairs, "should return the list of replies"),
]

TRIED = {
    "01.1": (FEW_SHOT_RIGHT, FEW_SHOT_WRONG),
    "01.2": (READ_JSON_RIGHT, READ_JSON_WRONG),
    "01.3": (AFFORDABLE_RIGHT, AFFORDABLE_WRONG),
    "01.4": (PATIENT_RIGHT, PATIENT_WRONG),
    "01.5": (IN_ORDER_RIGHT, IN_ORDER_WRONG),
}


def verdict(key, answer, capsys):
    """What `check` prints about an answer."""
    checks.check(key, answer)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "answer"), [(k, a) for k, (right, _) in TRIED.items() for a in right]
)
def test_a_right_answer_passes(key, answer, capsys):
    """A learner who solved it in their own way: no wording of the check stands in the way."""
    assert verdict(key, answer, capsys).startswith(f"Exercise {key}: correct.")


@pytest.mark.parametrize(
    ("key", "answer", "remark"), [(k, *a) for k, (_, wrong) in TRIED.items() for a in wrong]
)
def test_a_wrong_answer_hears_what_is_wrong(key, answer, remark, capsys):
    """A learner with a likely mistake reads what their answer did on which input."""
    said = verdict(key, answer, capsys)
    assert said.startswith(f"Exercise {key}: not yet.")
    assert remark in said


def test_an_answer_that_never_ends_is_told_so(capsys, monkeypatch):
    """A learner who waits for a semaphore that nobody frees gets the notebook back."""
    from course_utils.exercises import sending

    monkeypatch.setattr(sending, "PATIENCE", 0.2)
    assert "does not come to an end" in verdict("01.5", waits_for_ever, capsys)


def test_in_order_can_be_checked_where_a_loop_is_running(capsys):
    """A learner in a notebook, whose kernel runs an event loop already."""

    async def in_a_notebook():
        checks.check("01.5", one_by_one)

    asyncio.run(in_a_notebook())
    assert "one after another" in capsys.readouterr().out


def test_every_exercise_is_tried_often_enough():
    """A maintainer who adds an exercise tries its check with several right and wrong answers."""
    assert set(TRIED) == set(checks.lesson("01").EXERCISES)
    for right, wrong in TRIED.values():
        assert len(right) >= 5 and len(wrong) >= 8


def test_labels_of_the_course_are_what_the_exercise_accepts():
    """A learner whose answer is right in the lesson must be right in the check."""
    assert {"Positive", "Negative", "Neutral"} == set(LABELS)
    assert UNPARSED not in LABELS


# -- cells of the lesson ---------------------------------------------------------------------------


def test_an_interrupted_ask_all_sends_no_more_requests():
    """A learner who presses the square button at 1,000 requests does not pay for the rest."""
    lesson = notebooks.read(notebooks.FOLDER / "01_api_calls.ipynb")
    sent = []

    async def ask_one(review):
        sent.append(review)
        await asyncio.Event().wait()

    names = {
        "ask_one": ask_one,
        "asyncio": asyncio,
        "settings": SimpleNamespace(static=lambda: True),
    }
    source = notebooks.cell_by_id(lesson, "semaphore").source.partition("\n\n\n")[0]
    for code in (source, notebooks.cell_by_id(lesson, "ask-all").source):
        exec(code, names)

    async def interrupted():
        cell = asyncio.create_task(names["ask_all"]([str(n) for n in range(50)], at_once=4))
        while len(sent) < 4:
            await asyncio.sleep(0)
        cell.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cell
        for _ in range(100):
            await asyncio.sleep(0)
        return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    assert asyncio.run(interrupted()) == []
    assert len(sent) == 4


def test_every_call_limits_its_reply():
    """A learner with a model that rambles waits for no reply without an end, and pays for none."""
    lesson = notebooks.read(notebooks.FOLDER / "01_api_calls.ipynb")
    calls = 0
    for cell in lesson.cells:
        for call in re.findall(r"(?s)\.create\((.*?)\n? *\)\n", cell.source + "\n"):
            if cell.cell_type == "code" and "ChatCompletion" not in cell.source:
                calls += 1
                limits = ("at_most(", "_tokens=", "**{**request, **changes}")
                assert any(limit in call for limit in limits), f"{cell.id}: {call}"
    assert calls > 12


# -- prices ----------------------------------------------------------------------------------------


def test_every_price_has_a_date_and_a_source():
    """A learner who plans with a price must see how old it is and where it was read."""
    prices = data.table("prices")
    for row in prices["models"]:
        assert set(row) == ROW
        assert row["input"] > 0 and row["output"] > 0
        assert row["date"] <= prices["read"]
        assert row["source"].startswith("https://")
        assert isinstance(row["second_hand"], bool)
    gpu = prices["gpu"]
    assert gpu["dollars_per_hour"] > 0
    assert gpu["date"] and gpu["source"] and "assumption" in gpu["note"]
