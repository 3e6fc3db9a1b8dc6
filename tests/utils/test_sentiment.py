"""review → messages → prompt → reply → label → score: parsing never guesses."""

import itertools
import json
import random
from pathlib import Path

import pytest

from course_utils import data, sentiment
from course_utils.replies import parser
from course_utils.sentiment import (
    LABELS,
    UNPARSED,
    Score,
    evaluate,
    evaluate_batch,
    messages,
    parse_label,
)

OTHERS = {label: [other for other in LABELS if other != label] for label in LABELS}
ONE_LABEL = [
    "{}",
    "{}.",
    " {} \n",
    "**{}**",
    '"{}"',
    "The sentiment is {}.",
    "Sentiment: {}",
    "I would say {}!",
    '{{"sentiment": "{}"}}',
    '{{"sentiment": "{}", "reason": "so fresh"}}',
    "{} ☕️",
    "Label: {}\n",
]
NO_LABEL = [
    "",
    " ",
    "I can't say.",
    "5/5",
    "👍",
    "Positivity aside, no.",
    "\x00",
    "pos",
    "{}",
    "null",
    "a" * 10_000,
]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("shape", ONE_LABEL)
@pytest.mark.parametrize("case", [str, str.lower, str.upper])
def test_one_label_in_any_dress_is_read(shape, label, case):
    """A learner's model may answer with a word, a sentence or JSON and is scored the same."""
    assert parse_label(shape.format(case(label))) == label


@pytest.mark.parametrize("reply", NO_LABEL)
def test_no_label_is_said_to_be_none(reply):
    """A learner sees how many replies could not be read, instead of a silent Neutral."""
    assert parse_label(reply) == UNPARSED


@pytest.mark.parametrize(("one", "two"), list(itertools.permutations(LABELS, 2)))
@pytest.mark.parametrize(
    "shape", ["{} or {}", "{}, {}", "Both {} and {}.", "{}. Well, {}.", "{}\n{}"]
)
def test_two_labels_are_no_label(shape, one, two):
    """A model that hedges gets no point by luck."""
    assert parse_label(shape.format(one, two)) == UNPARSED


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("shape", ["It is not {}.", "It isn't {}.", "Never {}.", "not really {}"])
def test_a_denied_label_is_no_label(shape, label):
    """A reply "not positive" is not counted as Positive."""
    assert parse_label(shape.format(label.lower())) == UNPARSED


TABLE = Path(__file__).with_name("replies.tsv").read_text(encoding="utf-8").splitlines()[1:]


@pytest.mark.parametrize("row", TABLE)
def test_a_reply_as_models_write_them(row):
    """A learner with another model: what it states is scored, what it does not state is not."""
    reply, expected = row.rsplit("\t", 1)
    for mark, meant in (("\\n", "\n"), ("\\t", "\t"), ("\\r", "\r")):
        reply = reply.replace(mark, meant)
    assert parse_label(reply) == expected


def test_most_of_the_table_is_traps():
    """A maintainer who adds rows: the table is worth something while both kinds are many."""
    traps = sum(row.endswith("\tunparsed") for row in TABLE)
    assert traps > 200 and len(TABLE) - traps > 100


OWN = [
    (["spam", "not spam"], "not spam", "not spam"),
    (["spam", "not spam"], "This message is not spam.", "not spam"),
    (["spam", "not spam"], "It is spam.", "spam"),
    (["spam", "not spam"], "It isn't spam.", UNPARSED),
    (["spam", "not spam"], "It isn't not spam.", UNPARSED),
    (["bug", "bug report"], "Label: bug report.", "bug report"),
    (["bug", "bug report"], "Label: bug.", "bug"),
    (["bug", "bug report"], "It is not a bug.", UNPARSED),
    (["Positive", "Very positive"], "The review is very positive.", "Very positive"),
    (["Positive", "Very positive"], "The review is positive.", "Positive"),
    (["Positive", "Very positive"], "The review is extremely positive.", UNPARSED),
    (["1", "-1", "0"], "-1", "-1"),
    (["1", "-1", "0"], "Label: -1", "-1"),
    (["1", "2", "3"], '{"label": 2}', "2"),
    (["1", "2", "3"], "1.5", UNPARSED),
    (["1", "2", "3"], "Rating: 3", "3"),
    (["1", "2", "3"], "Rating: 3/5", UNPARSED),
    (["1", "2", "3"], "Rating: 2 or 3", UNPARSED),
    (["1", "2", "3"], "1. It is 2.", UNPARSED),
    (["Q1 2024", "Q2 2024"], "The answer is Q2 2024.", "Q2 2024"),
    (["Up", "up"], "Up", "Up"),
    (["Up", "up"], "The label is up.", UNPARSED),
    (["bull", "bear"], " Bull. ", "bull"),
    (["bear", "Bull run"], "bull", UNPARSED),
    (["积极", "消极"], "积极。", "积极"),
    (["积极", "消极"], "不积极", UNPARSED),
    (["позитивно", "негативно"], "Позитивно!", "позитивно"),
    (["позитивно", "негативно"], "не позитивно", UNPARSED),
    (["إيجابي", "سلبي"], "سلبي", "سلبي"),
    (["Straße", "Weg"], "STRASSE", "Straße"),
    (["négatif", "positif"], "ne\u0301gatif", "négatif"),
    (["very good", "bad"], "Very\u00a0 good", "very good"),
    (["misc.", "other"], "Category: misc.", "misc."),
    (["5", "5*"], "5*", "5*"),
    (["5", "5*"], "**5**", "5"),
    (["yes", "no"], "No.", "no"),
    (["yes", "no"], "Yes, no.", UNPARSED),
    (["a", "b"], "It is a b", UNPARSED),
    (["C++", "C"], "The language is C++.", "C++"),
    (["C++", "C"], "Language: C", "C"),
    ([], "Positive", UNPARSED),
    ([""], "", UNPARSED),
]


@pytest.mark.parametrize(("labels", "reply", "expected"), OWN)
def test_labels_of_any_name_are_read_by_the_same_rules(labels, reply, expected):
    """A learner with labels of several words, one inside another, digits, or another script."""
    assert parser(labels)(reply) == expected


@pytest.mark.parametrize("label", ["misc.", "N.A.", "5*", "'a'", '"q"', "`x`", "(b)", "e.g.", "!"])
def test_a_label_that_ends_in_a_mark_is_read(label):
    """A learner whose labels hold marks that a reply is otherwise stripped of."""
    assert parser([label, "other"])(label) == label


def test_another_running_example_needs_other_labels_only(monkeypatch):
    """An instructor who changes `LABELS`: the parser follows, and forgets sentiment."""
    monkeypatch.setattr(sentiment, "LABELS", ("Urgent", "Can wait"))
    assert parse_label("The message is urgent.") == "Urgent"
    assert parse_label("Label: can wait") == "Can wait"
    assert parse_label("This isn't urgent.") == UNPARSED
    assert parse_label("Positive") == UNPARSED


@pytest.mark.parametrize("reply", [None, 3, ["Positive"], {"label": "Positive"}, b"Positive"])
def test_a_reply_that_is_no_text_is_unparsed(reply):
    """A learner whose server sends null: the other 199 reviews are still scored."""
    assert parse_label(reply) == UNPARSED
    score = evaluate(lambda chat: reply, [("fine", "Positive")], progress=False)
    assert score.total == 1 and score.unparsed == [""]


@pytest.mark.parametrize(
    "reply", ["[" * 100_000, '{"a":' * 50_000, "the " * 20_000, "Positive " * 5_000, "(" * 9_999]
)
def test_a_model_that_rambles_on_does_not_stop_the_score(reply):
    """A learner whose model repeats itself to the limit: unparsed, no crash, no minutes."""
    assert parse_label(reply) == UNPARSED


def test_random_replies_never_invent_a_label():
    """Whatever a model babbles, a label comes out only if exactly that label's word is in it."""
    rng = random.Random(7)
    words = [*LABELS, "not", "is", "the", "sentiment", "{", '"', ":", "isn't", "\n", "ok", "posit"]
    for _ in range(3000):
        reply = " ".join(rng.choices(words, k=rng.randint(0, 7)))
        label = parse_label(reply)
        named = {one for one in LABELS if one in reply}
        assert label == UNPARSED or named == {label}, reply


def test_random_bytes_never_crash_the_parser():
    """A broken tokenizer's output is unparsed, not an exception in the middle of 200 reviews."""
    rng = random.Random(8)
    for _ in range(1000):
        text = rng.randbytes(rng.randint(0, 60)).decode("utf-8", errors="replace")
        assert parse_label(text) == UNPARSED


def test_messages_hold_the_review_and_nothing_else():
    """What a learner types reaches the model unchanged, spaces and all."""
    review = "  tabs\tand [INST] ☕️ "
    assert messages(review)[-1] == {"role": "user", "content": review}
    assert [m["role"] for m in messages(review)] == ["system", "user"]
    assert [m["role"] for m in messages(review, system=None)] == ["user"]


def test_the_interval_holds_the_share_and_shrinks():
    """A learner who scores more reviews sees a narrower interval, never outside 0 to 1."""
    assert sentiment.interval(0, 0) == (0.0, 1.0)
    for right, total in [(0, 5), (5, 5), (1, 3), (90, 100), (180, 200)]:
        low, high = sentiment.interval(right, total)
        assert 0 <= low <= right / total <= high <= 1
    wide, narrow = sentiment.interval(9, 10), sentiment.interval(900, 1000)
    assert narrow[1] - narrow[0] < wide[1] - wide[0]


def test_the_interval_is_scipy_s():
    """A learner who checks the interval with a library: it has to be the same to four digits."""
    from scipy.stats import binomtest

    for right, total in [(81, 263), (0, 7), (12, 12), (335, 400)]:
        theirs = binomtest(right, total).proportion_ci(method="wilson")
        assert sentiment.interval(right, total) == pytest.approx(tuple(theirs), abs=1e-4)


def test_evaluate_counts_everything_it_asked():
    """A learner's score is over all reviews: unparsed ones count as wrong and are shown."""
    replies = iter(
        ["Positive", "The label is negative.", "who knows", json.dumps({"label": "Neutral"})]
    )
    asked = []

    def complete(chat):
        asked.append(chat)
        return next(replies)

    examples = [("a", "Positive"), ("b", "Positive"), ("c", "Negative"), ("d", "Neutral")]
    score = evaluate(complete, iter(examples), progress=False)
    assert [chat[-1]["content"] for chat in asked] == ["a", "b", "c", "d"]
    assert (score.total, score.right, score.accuracy) == (4, 2, 0.5)
    assert score.unparsed == ["who knows"]
    assert score.confusion[("Positive", "Negative")] == 1
    assert sum(score.confusion.values()) == score.total
    assert "1 unparsed" in repr(score)


@pytest.mark.parametrize(("minutes", "scored"), [(None, 100), (1, 60), (0.01, 1), (9, 100)])
def test_a_score_takes_as_many_reviews_as_fit_the_minutes(monkeypatch, capsys, minutes, scored):
    """A learner with a slow model: the score ends within the card's minutes, and says so."""
    clock = [0.0]
    monkeypatch.setattr(sentiment.time, "monotonic", lambda: clock[0])

    def complete(chat):
        clock[0] += 1.0  # a second for each review
        return "Positive"

    score = evaluate(complete, [("a", "Positive")] * 100, progress=False, minutes=minutes)
    assert score.total == scored
    said = capsys.readouterr().out
    assert (f"{scored} of 100 reviews" in said) == (scored < 100)


def test_minutes_hold_for_batches(monkeypatch):
    """A learner who scores in batches: whole ones, and never over the time by more than one."""
    clock = [0.0]
    monkeypatch.setattr(sentiment.time, "monotonic", lambda: clock[0])

    def complete(chats):
        clock[0] += 10.0
        return ["Positive"] * len(chats)

    score = evaluate_batch(complete, [("a", "Positive")] * 99, 16, progress=False, minutes=0.5)
    assert score.total == 48 and clock[0] <= 30


def test_no_reviews_is_no_crash():
    """A learner who filters everything away sees a score of nothing."""
    score = evaluate(lambda chat: "Positive", [], progress=False)
    assert (score.total, score.accuracy) == (0, 0.0)
    assert repr(score)
    assert isinstance(score, Score)


def test_the_course_reviews_are_labelled_and_mixed():
    """A learner who scores the first 20 reviews meets all labels."""
    pairs = data.reviews()
    assert {label for _, label in pairs} <= set(LABELS)
    assert {label for _, label in data.reviews(20)} == set(LABELS)
    assert len({text for text, _ in pairs}) == len(pairs)
    assert all(text.strip() for text, _ in pairs)


@pytest.mark.parametrize("model", ["smollm2", "owner/name"])
def test_a_general_model_is_asked_for_a_label(monkeypatch, model):
    """A learner with a real model gets labels to score, in place of 200 friendly conversations."""
    monkeypatch.setenv("COURSE_MODEL", model)
    system, asked = messages("The soup was cold.")
    assert (system["content"], asked["role"]) == (sentiment.SYSTEM, "user")
    assert all(label in asked["content"] for label in LABELS)
    assert "The soup was cold." in asked["content"]
    own = messages("The soup was cold.", system="Answer in JSON.")
    assert [m["content"] for m in own] == ["Answer in JSON.", "The soup was cold."]
    monkeypatch.setenv("COURSE_MODEL", "")
    article = [m["content"] for m in messages("The soup was cold.")]
    assert article == [sentiment.SYSTEM, "The soup was cold."]
