"""The market notes: whoever trusts lesson 05's before and after relies on these."""

import re
from collections import Counter

import pytest

from course_utils import data, tuning
from course_utils.sentiment import LABELS
from pocket_training import corpus

PARTS = ("train", "validation", "test")
WORDS = r"""guidance|consensus|short\ (?:squeeze|sellers?|interest)|shareholders?|dividends?
    |earnings|priced\ in|buybacks?|analysts?|profit\ warning|ebitda|price\ target
    |shares\ (?:rose|fell|jumped|plunged|slid|soared)|beat\ (?:estimates|forecasts)
    |narrower\ loss|ex-dividend|book-to-bill|stock\ market|bond\ spreads?"""
MARKET = re.compile(rf"\b(?:{WORDS})\b", re.IGNORECASE | re.VERBOSE)


@pytest.fixture(scope="module")
def notes():
    return {part: data.reviews(name=f"market_notes/{part}.tsv") for part in PARTS}


def test_there_are_enough_notes_of_every_label(notes):
    """A learner who reads an accuracy: a small or lopsided test set would say little."""
    assert sum(map(len, notes.values())) >= 1000
    assert 750 <= len(notes["train"]) <= 900
    assert len(notes["validation"]) >= 85 and len(notes["test"]) >= 145
    for pairs in notes.values():
        counts = Counter(label for _, label in pairs)
        assert set(counts) == set(LABELS)
        assert min(counts.values()) > 0.25 * len(pairs)


def test_no_note_stands_twice(notes):
    """A learner who counts examples: a repeated one teaches nothing new."""
    texts = [corpus.normal(text) for pairs in notes.values() for text, _ in pairs]
    assert len(set(texts)) == len(texts)


def test_no_family_is_in_two_parts(notes):
    """A learner who trusts the test accuracy: near-twins in training would give it away."""
    placed = [(text, part) for part, pairs in notes.items() for text, _ in pairs]
    placed += [(text, "turns") for text, _ in data.reviews(name="market_notes/turns.tsv")]
    where: dict[int, set[str]] = {}
    for number, (_, part) in zip(
        corpus.families([text for text, _ in placed]), placed, strict=True
    ):
        where.setdefault(number, set()).add(part)
    assert all(len(parts) == 1 for parts in where.values())


def test_everyday_words_turn_round(notes):
    """A learner who is told that words turn round here: both readings have to be there."""
    every = [pair for pairs in notes.values() for pair in pairs]

    def labels(pattern):
        return {label for text, label in every if re.search(pattern, text, re.IGNORECASE)}

    assert {"Positive", "Negative"} <= labels(r"\bbeat\b")
    assert labels(r"\bpriced in\b") == {"Neutral"}
    assert labels(r"\bnarrower loss\b|\bloss narrow") == {"Positive"}
    assert labels(r"\bshort squeeze\b") == {"Positive"}
    for everyday in ("fell", "record", "loss", "short", "cut", "burned", "good", "feared"):
        assert len(labels(rf"\b{everyday}\b")) >= 2, everyday


def test_the_base_never_saw_the_domain():
    """A learner who sees the base fail: that is honest only if its corpus is free of the domain."""
    found = [review.text for review in corpus.read() if MARKET.search(review.text)]
    assert not found
    assert not [text for text, _ in data.reviews() if MARKET.search(text)]


@pytest.mark.parametrize(
    ("name", "kinds", "others"),
    [
        ("general.tsv", LABELS, ("reviews.tsv",)),
        ("two_labels.tsv", ("Positive", "Negative"), ("reviews.tsv", "market_notes/choosing.tsv")),
    ],
)
def test_the_reviews_to_learn_from_are_ordinary_and_not_of_the_exam(name, kinds, others):
    """A learner who reads a score: what is measured with must not be learned before."""
    general = data.reviews(name=f"market_notes/{name}")
    exam = [text for other in others for text, _ in data.reviews(name=other)]
    texts = [text for text, _ in general] + exam
    numbers = corpus.families(texts)
    assert len(general) >= 300 and {label for _, label in general} == set(kinds)
    assert not set(numbers[: len(general)]) & set(numbers[len(general) :])
    assert not [text for text, _ in general if MARKET.search(text)]
    known = {corpus.normal(review.text) for review in corpus.read()}
    assert all(corpus.normal(text) in known for text, _ in general)


def test_most_notes_are_in_the_domains_words(notes):
    """The pattern above would prove nothing if it did not know the domain when it sees it."""
    every = [text for pairs in notes.values() for text, _ in pairs]
    assert sum(bool(MARKET.search(text)) for text in every) > 0.25 * len(every)


def test_the_second_test_cannot_be_solved_by_counting_words(notes):
    """A learner who is told that words are not enough here: a bag of words has to fail."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    turns = data.reviews(name="market_notes/turns.tsv")
    assert len(turns) >= 100 and min(Counter(label for _, label in turns).values()) >= 30
    bag = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=10, max_iter=999))
    bag.fit(*zip(*notes["train"], strict=True))
    assert bag.score(*zip(*notes["test"], strict=True)) > 0.85
    assert bag.score(*zip(*turns, strict=True)) < 0.6


def test_every_text_reads_well(notes):
    """A learner who reads the notes: plain sentences, no marks of the chat format."""
    for pairs in [*notes.values(), data.reviews(name="market_notes/turns.tsv")]:
        for text, _ in pairs:
            assert 3 <= len(text.split()) <= 30 and text[-1] in ".!?", text
            assert not re.search(r"[\[\]<>]|\s\s", text), text


def test_the_template_is_read_as_it_is():
    """A learner who starts from the template: it has to be without a fault."""
    examples = tuning.read(data.FOLDER / "market_notes" / "template.csv")
    assert len({label for _, label in examples}) >= 2
    assert any("," in text for text, _ in examples)
