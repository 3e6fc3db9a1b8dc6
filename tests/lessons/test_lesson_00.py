"""Lesson 00's exercises: right answers pass, wrong ones hear what they did on which input."""

import pytest

from course_utils import checks
from course_utils.sentiment import messages, parse_label

SOUR = "We waited an hour and left hungry."


def judge(chat):
    """A stand-in for the lesson's model that calls what was waited for negative."""
    review = chat[-1]["content"].lower()
    return "Negative" if "waited" in review or "terrible" in review else "Positive"


def wordy(chat):
    """A stand-in for a model that answers in sentences."""
    return f"The sentiment is {judge(chat).lower()}."


def ask(review, system="Answer with one word."):
    return [{"role": "system", "content": system}, *user(review)]


def user(review):
    return [{"role": "user", "content": review}]


def label(review):
    return parse_label(judge(user(review)))


def with_sum(reviews):
    return sum(label(review) == "Positive" for review in reviews)


def with_a_loop(reviews):
    count = 0
    for review in reviews:
        if label(review) == "Positive":
            count += 1
    return count


def by_the_words(reviews):
    return sum("positive" in judge(user(review)).lower() for review in reviews)


def recursive(reviews):
    return (label(reviews[0]) == "Positive") + recursive(reviews[1:]) if reviews else 0


def with_numpy(reviews):
    import numpy

    return numpy.sum([label(review) == "Positive" for review in reviews], dtype=int)


RIGHT = [
    ("00.1", (SOUR, judge)),
    ("00.1", ("we waited an hour and left hungry", judge)),
    ("00.1", ("Terrible: nothing works.", judge)),
    ("00.1", ("We cannot say why we waited so long.", judge)),
    ("00.1", ("The badge had broken while we waited.", wordy)),
    ("00.1", ("Waited.\nAnd waited.\nThen left.", judge)),
    ("00.2", ask("Nice staff.")),
    ("00.2", ask("What is the sentiment of this review? Nice staff.")),
    ("00.2", ask('Is "Nice staff." positive, negative or neutral?')),
    ("00.2", tuple(ask("Review: Nice staff.\nSentiment:"))),
    ("00.2", messages("Nice staff.", "Answer with one word.")),
    ("00.2", ask(" Nice staff. ", "Answer with one word.\n")),
    ("00.3", with_sum),
    ("00.3", with_a_loop),
    ("00.3", by_the_words),
    ("00.3", recursive),
    ("00.3", with_numpy),
    ("00.3", lambda reviews: [label(r) for r in reviews].count("Positive")),
    ("00.3", (with_sum, wordy)),
    ("00.3", (lambda reviews: 0, lambda chat: "Neutral")),
]
WRONG = [
    ("00.1", ("Not what we waited for.", judge), "holds 'Not'"),
    ("00.1", ("A BAD place, we waited.", judge), "holds 'BAD'"),
    ("00.1", ("We never waited so long.", judge), "holds 'never'"),
    ("00.1", ("We didn't like what we waited for.", judge), 'holds "didn\'t"'),
    ("00.1", ("We didn’t like what we waited for.", judge), "holds 'didn’t'"),
    ("00.1", ("I waited.", judge), "'I waited.' is too short"),
    ("00.1", ("", judge), "at least three words"),
    ("00.1", ("We had a lovely time.", judge), "To 'We had a lovely time.' the model answers"),
    ("00.1", (5, judge), "text in quotes, not int"),
    ("00.1", ([SOUR], judge), "text in quotes, not list"),
    ("00.1", SOUR, "Leave the line with check"),
    ("00.2", user("Nice staff."), "yours are ['user']"),
    (
        "00.2",
        [*user("Nice staff."), {"role": "system", "content": "Answer with one word."}],
        "yours",
    ),
    ("00.2", [*ask("Nice staff."), *user("Well?")], "yours are ['system', 'user', 'user']"),
    ("00.2", ask("Nice food."), "it holds 'Nice food.'"),
    ("00.2", ask(""), "it holds ''"),
    ("00.2", ask("Nice staff.", "Answer in one word."), "another text: 'Answer in one word.'"),
    ("00.2", ask("Answer with one word.", "Nice staff."), "another text: 'Nice staff.'"),
    ("00.2", "Nice staff.", "list of dictionaries"),
    ("00.2", ["Answer with one word.", "Nice staff."], "list of dictionaries"),
    ("00.2", [{"system": "Answer with one word."}, {"user": "Nice staff."}], "[None, None]"),
    ("00.3", len, "it returned 1; the model calls 0 of these 1 Positive"),
    ("00.3", lambda reviews: 1, "it returned 1; the model calls 0"),
    ("00.3", lambda reviews: min(1, with_sum(reviews)), "it returned 1; the model calls 2"),
    ("00.3", lambda reviews: len(reviews) - with_sum(reviews), "it returned 0; the model calls 1"),
    ("00.3", lambda reviews: [r for r in reviews if label(r) == "Positive"], "is no number"),
    ("00.3", lambda reviews: any(label(r) == "Positive" for r in reviews), "returned True"),
    ("00.3", lambda reviews: str(with_sum(reviews)), "returned '1', which is no number"),
    ("00.3", lambda reviews: with_sum(reviews) or None, "returned None"),
    ("00.3", lambda reviews: with_sum(reviews[1:]), "returned 0; the model calls 1"),
    ("00.3", lambda reviews: sum("love" in r for r in reviews), "the model calls"),
    ("00.3", lambda reviews: print(with_sum(reviews)), "returned None"),
    ("00.3", lambda reviews: with_sum([reviews.pop() for _ in range(len(reviews))]), "changed"),
    ("00.3", (with_sum, lambda chat: "Neutral"), "it returned 1; the model calls 0"),
]


@pytest.mark.parametrize(("key", "answer"), RIGHT)
def test_a_right_answer_passes(key, answer, capsys):
    """A learner who solved it in their own way: no wording of the check stands in the way."""
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


def test_every_exercise_is_tried_often_enough():
    """A maintainer who adds an exercise tries its check with several right and wrong answers."""
    for key in checks.lesson("00").EXERCISES:
        assert sum(k == key for k, _ in RIGHT) >= 5
        assert sum(k == key for k, *_ in WRONG) >= 8
