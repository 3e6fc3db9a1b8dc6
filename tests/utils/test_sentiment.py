"""review → messages → prompt → reply → label → score: parsing never guesses."""

import itertools
import json
import random

import pytest

from course_utils import data, sentiment
from course_utils.sentiment import LABELS, UNPARSED, Score, evaluate, messages, parse_label

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
    low, high = sentiment.interval(81, 263)  # an example with known ends: 0.2553, 0.3662
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_evaluate_counts_everything_it_asked():
    """A learner's score is over all reviews: unparsed ones count as wrong and are shown."""
    replies = iter(
        ["Positive", "The label is negative.", "who knows", json.dumps({"a": "Neutral"})]
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
