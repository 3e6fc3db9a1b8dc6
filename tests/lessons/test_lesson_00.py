"""Lesson 00's exercises: right answers pass, likely mistakes are told apart."""

import pytest

from course_utils import checks
from course_utils.sentiment import parse_label

SOUR = "We waited an hour and left hungry."


def judge(messages):
    """A stand-in for the lesson's model that calls what was waited for negative."""
    review = messages[-1]["content"].lower()
    return "Negative" if "waited" in review or "terrible" in review else "Positive"


def ask(review):
    return [{"role": "system", "content": "Answer with one word."}, *user(review)]


def user(review):
    return [{"role": "user", "content": review}]


def count(reviews):
    return sum(parse_label(judge(user(review))) == "Positive" for review in reviews)


RIGHT = [("00.1", (SOUR, judge)), ("00.2", ask("Nice staff.")), ("00.3", count)]
WRONG = [
    ("00.1", ("Not what we waited for.", judge), "holds bad, not"),
    ("00.1", ("We didn't like what we waited for.", judge), "holds bad, not"),
    ("00.1", ("I waited.", judge), "at least three words"),
    ("00.1", ("We had a lovely time.", judge), "answers 'Positive'"),
    ("00.1", (5, judge), "text in quotes"),
    ("00.2", user("Nice staff."), "system, then user"),
    ("00.2", ask("Review: Nice staff."), "and nothing else"),
    ("00.2", "Nice staff.", "list of dictionaries"),
    ("00.3", len, "returned 2"),
    ("00.3", lambda reviews: 1, "empty list"),
    ("00.3", lambda reviews: min(1, len(reviews)), "should count as 3"),
]


@pytest.mark.parametrize(("key", "answer"), RIGHT)
def test_a_right_answer_passes(key, answer, capsys):
    """A learner who solved it: no wording of the check stands in the way."""
    checks.check(key, answer)
    assert f"Exercise {key}: correct." in capsys.readouterr().out


@pytest.mark.parametrize(("key", "answer", "remark"), WRONG)
def test_a_wrong_answer_hears_what_is_wrong(key, answer, remark, capsys):
    """A learner with a likely mistake: the check names it, without a traceback."""
    checks.check(key, answer)
    said = capsys.readouterr().out
    assert "not yet" in said and remark in said


def test_the_first_starter_is_untouched(capsys):
    """A learner who runs the lesson before writing anything is not told off."""
    checks.check("00.1", (..., judge))
    assert checks.NOT_ANSWERED in capsys.readouterr().out
