"""Faults that answers to any exercise can have: each is told with the input that showed it."""

import asyncio
import functools
import itertools
import math
import re
import threading
import time
from _thread import interrupt_main
from decimal import Decimal

import numpy
import pytest
import torch

from course_utils import checks
from course_utils.exercises import lesson_03, sending


def count(reviews):
    """A right answer to 00.3 with the made-up model."""
    return sum(review.startswith(("I love", "Wonder")) for review in reviews)


def whole(budget, inside, outside, price):
    """A right answer to 01.3."""
    return budget * 1e6 // (inside * price["input"] + outside * price["output"])


async def by_workers(ask, reviews, at_once):
    """A right answer to 01.5."""
    found, todo = {}, iter(enumerate(reviews))

    async def work():
        for place, review in todo:
            found[place] = await ask(review)

    await asyncio.gather(*(work() for _ in range(at_once)))
    return [found[place] for place in range(len(reviews))]


class Asks:
    """An answer that is an object."""

    async def __call__(self, ask, reviews, at_once):
        """Ask for all of them."""
        return await by_workers(ask, reviews, at_once)


def warm(logits, temperature):
    """A right answer to 02.2."""
    return (logits / temperature).softmax(-1)


def padded(rows, pad_id):
    """A right answer to 02.4."""
    longest = max(map(len, rows))
    short = [longest - len(row) for row in rows]
    ids = [[pad_id] * n + row for n, row in zip(short, rows, strict=True)]
    return ids, [[0] * n + [1] * len(row) for n, row in zip(short, rows, strict=True)]


def off(chances, came):
    """A right answer to 06.3."""
    each = (
        abs(sum(t - s for s, t in zip(chances, came, strict=True) if s == c)) for c in {*chances}
    )
    return sum(each) / len(came)


def workers(batches, seconds, startup, each, shared):
    """A right answer to 07.3."""
    left = seconds - startup
    return None if batches * shared > left or left <= 0 else math.ceil(batches * each / left)


def cached(c, n):
    """A right answer to 04.4."""
    return numpy.prod([2, c.num_hidden_layers, c.num_key_value_heads, c.head_dim, n, 2])


RIGHT = (
    ("00.3", lambda reviews: torch.tensor(count(reviews))),
    ("00.3", lambda reviews: numpy.array(count(reviews))),
    ("01.3", lambda *given: Decimal(whole(*given))),
    ("01.3", lambda *given: torch.tensor(whole(*given), dtype=torch.float64)),
    ("01.3", lambda *given: numpy.array(whole(*given))),
    ("01.5", Asks()),
    ("01.5", lambda *given: by_workers(*given)),
    ("01.5", functools.partial(by_workers)),
    ("02.2", lambda *given: iter(warm(*given).tolist())),
    ("02.2", lambda *given: [Decimal(one) for one in warm(*given).tolist()]),
    ("02.4", lambda *given: torch.tensor(padded(*given))),
    ("02.4", lambda *given: numpy.array(padded(*given))),
    ("02.4", lambda *given: iter(padded(*given))),
    ("04.4", cached),
    ("05.2", lambda p, w: itertools.chain([-100] * len(p), w[len(p) :])),
    ("06.1", lambda d, cs: {c[len(d)] for c in cs if c[: len(d)] == d and c != d}),
    ("06.3", lambda *given: Decimal(off(*given))),
    ("07.3", lambda *given: None if (n := workers(*given)) is None else Decimal(n)),
)  # fmt: skip


@pytest.mark.parametrize(("key", "answer"), RIGHT)
def test_a_right_answer_of_another_library_or_style_passes(key, answer):
    """A learner who answers by numpy, torch, Decimal, a generator or an object is right too."""
    solved, said = checks.judged(key, answer)
    assert solved, said


def strip(text):
    """A right answer to 03.4."""
    while (shorter := lesson_03.MARKS.sub("", text)) != text:
        text = shorter
    return text


def less(review, probability, first=0):
    """02.5, or the mistake of not looking at the first word."""
    words = review.split()
    left = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words))]
    return words[min(range(first, len(words)), key=lambda i: probability(left[i]))]


def in_one_run(chances, came):
    """The mistake of groupby without sorting: 06.3."""
    pairs = itertools.groupby(zip(chances, came, strict=True), key=lambda pair: pair[0])
    return sum(abs(sum(t - c for c, t in group)) for _, group in pairs) / len(came)


def in_tenths(chances, came):
    """The mistake of grouping what is nearly equal: 06.3."""
    nearly = [round(chance, 1) for chance in chances]
    each = (
        abs(sum(t - c for c, t, n in zip(chances, came, nearly, strict=True) if n == one))
        for one in {*nearly}
    )
    return sum(each) / len(came)


def best(odds, labels):
    """A right answer to 06.2."""
    pairs = [*zip(odds, labels, strict=True)]
    lines = [min(odds) - 1, *odds]
    return max(lines, key=lambda line: sum((o > line) == (x == "Positive") for o, x in pairs))


WRONG = (
    ("00.1", ("waited ! !", lambda chat: "Negative"), "at least three words"),
    ("00.2", {"role": "user", "content": "Nice staff."}, "it is {'role': 'user'"),
    ("02.3", lambda p, top_p: ["1", "3"], "no list of ids"),
    ("02.3", lambda p, top_p: [math.inf], "these are no ids"),
    ("02.4", lambda *given: None, "For the rows [[5, 6, 7], [8], [9, 4]] and pad_id 0 it should"),
    ("02.5", lambda *given: less(*given, first=1), "'this is a lukewarm place'"),
    (
        "02.5",
        lambda r, p: min(r.split(), key=lambda word: p(r.replace(word, "", 1))),
        "'this is a lukewarm place' it returned 'is'",
    ),
    ("03.3", lambda ids, bos: "yes" if (bos, bos) in itertools.pairwise(ids) else "", "''"),
    ("03.4", lambda text: strip(text).strip(), "should stay as it is"),
    ("03.4", lambda text: strip(text).replace("\n", " "), "should stay as it is"),
    ("04.1", 10**400, "should be a number"),
    ("04.3", {"nf4": True}, "a list of names"),
    ("05.1", lambda i, o, r: str(r * (i + o)), "it gives '4096', which is no number"),
    ("05.1", lambda i, o, r: torch.tensor([r * i, r * o]), "which is no number"),
    ("05.2", lambda p, w: [str(one) for one in [-100] * len(p) + w[len(p) :]], "no list of ids"),
    ("05.2", lambda p, w: [-100.5] * len(p) + w[len(p) :], "no list of ids"),
    ("05.3", lambda f, t, b: str(f * b + 16 * t), "which is no number"),
    ("05.4", lambda w, a, b, alpha: w + alpha / 2 * b @ a, "rank 3 and alpha 5"),
    ("05.4", lambda w, a, b, alpha: w + alpha // len(a) * b @ a, "rank 3 and alpha 5"),
    ("05.5", lambda train, test: [[text, True] for text in test], "none of the test texts"),
    ("06.1", lambda d, cs: {c[len(d)] for c in cs if c[: len(d)] == d and c != d} or None, "None"),
    ("06.1", lambda d, cs: [str(c[len(d)]) for c in cs if c[: len(d)] == d], "it gives ['5'"),
    ("06.2", lambda *given: str(best(*given)), "which is no number"),
    ("06.3", lambda *given: str(off(*given)), "which is no number"),
    ("06.3", lambda *given: round(off(*given), 2), "[0.62, 0.58"),
    ("06.3", in_one_run, "[0.62, 0.58"),
    ("06.3", in_tenths, "[0.62, 0.58"),
    ("07.3", lambda *given: math.nan, "only whole workers"),
    ("07.5", lambda *given: math.inf, "inf cards"),
)  # fmt: skip


@pytest.mark.parametrize(("key", "answer", "told"), WRONG)
def test_a_wrong_answer_of_the_usual_kinds_is_refused(key, answer, told):
    """A learner with a text for a number, or right by luck on one input, is not told "correct"."""
    solved, said = checks.judged(key, answer)
    assert solved is False and said.startswith("not yet. ") and told in said, said


def emptied(ids, bos):
    """03.3 by taking the list apart."""
    while len(ids) > 1:
        if ids.pop(0) == bos == ids[0]:
            return True
    return False


def zeroed(p, top_p):
    """02.3 by striking out the likeliest one after the other."""
    kept, total = [], 0.0
    while total < top_p:
        kept.append(int(p.argmax()))
        total += float(p[kept[-1]])
        p[kept[-1]] = 0
    return kept


async def taken(ask, reviews, at_once):
    """01.5 by taking the reviews out of the list."""
    found = []
    while reviews:
        some = [reviews.pop(0) for _ in range(min(at_once, len(reviews)))]
        found += await asyncio.gather(*map(ask, some))
    return found


def sorted_in_place(chances, came):
    """06.3 with the chances left in another order than what came."""
    said = off(chances, came)
    chances.sort(reverse=True)
    chances.pop()
    return said


@pytest.mark.parametrize(
    ("key", "answer", "told"),
    [
        ("02.3", zeroed, "tensor([0.1250, 0.0000"),
        ("03.3", emptied, "Called with [1, 5, 6], 1, it makes [6] of what it got. Work on a copy."),
        ("06.3", sorted_in_place, "it makes [0.9, 0.9, 0.9] of what it got"),
        ("01.5", taken, "it leaves 0 in the list of reviews"),
    ],
)
def test_an_answer_that_changes_what_it_is_given_hears_so(key, answer, told):
    """A learner whose function would empty the caller's own list, right as its result may be."""
    solved, said = checks.judged(key, answer)
    assert solved is False and told in said, said


def forever(*given):
    while True:
        try:
            raise ValueError
        except:  # noqa: E722 - what learners write
            pass


@pytest.mark.parametrize("key", ["01.2", "03.3", "05.1", "07.2", "07.3"])
def test_an_endless_answer_gives_the_notebook_back(key):
    """A learner with a loop without an end reads on which input, and keeps the kernel."""
    solved, said = checks.judged(key, forever, patience=0.2)
    assert solved is False and "not come to an end (stopped after 0.2 s)" in said, said
    assert "Called with " in said


def test_a_regular_expression_that_tries_for_ever_gives_the_notebook_back():
    """The same, where no other thread gets a turn until it has matched: in some centuries."""

    def backtracking(*given):
        return re.fullmatch(r"(a+)+b", "a" * 60)

    solved, said = checks.judged("03.3", backtracking, patience=0.2)
    assert solved is False and "not come to an end (stopped after 0.2 s)" in said, said


def test_an_endless_coroutine_does_not_go_on_in_the_background(monkeypatch, capfd):
    """A learner with a loop without await: nothing slows down the rest of the lesson."""

    async def endless(ask, reviews, at_once):
        while True:
            pass

    monkeypatch.setattr(sending, "PATIENCE", 0.1)
    before = threading.active_count()
    assert checks.judged("01.5", endless) == (False, "not yet. It does not come to an end.")
    deadline = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before and not capfd.readouterr().err


def test_somebody_s_own_stop_is_still_a_stop():
    """A learner who presses the square button while an answer runs: no verdict, the run ends."""
    with pytest.raises(KeyboardInterrupt):
        checks.judged("05.1", lambda i, o, r: interrupt_main() or time.sleep(5))


@pytest.mark.parametrize(
    ("key", "answer", "told"),
    [
        ("06.1", lambda d, cs: {c[len(d)] for c in cs if c[: len(d)] == d}, "[5, 9], [["),
        ("07.5", lambda n, p, s, d: math.ceil(n / (p * (d - s))), "1000, 100, 600, 600)"),
        ("04.4", lambda c, n: c.layers, "called with a LlamaConfig, 1000)"),
        ("05.1", lambda i, o, r: exit(), "stopped with SystemExit"),
    ],
)  # fmt: skip
def test_an_answer_that_stops_is_told_on_which_input(key, answer, told):
    """A learner whose function fails on one input of many can try that one alone."""
    solved, said = checks.judged(key, answer)
    assert solved is False and said.startswith("your answer stopped with") and told in said, said


@pytest.mark.parametrize(("key", "answer"), [("02.1", 1.8), ("05.1", 4096), ("00.3", (3, str))])
def test_a_result_in_place_of_a_function_is_named(key, answer):
    """A learner who passes f(x) in place of f reads that, not that an int is not callable."""
    assert "should be a function, passed by its name alone; it is" in checks.judged(key, answer)[1]
