"""The corpus: whoever retrains or extends Pocket Llama relies on these."""

import re
from collections import Counter

import pytest

from pocket_training import corpus, dialogues, lexicon
from pocket_training.batches import Encoder

# Reading the corpus and finding its near-twins takes half a minute.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def parts():
    return corpus.split()


def test_corpus_is_large_and_varied():
    """A learner's review may be about anything: the corpus must be wide."""
    reviews = corpus.read()
    assert len(reviews) >= 12_000
    assert len({r.subject for r in reviews}) >= 30
    counts = Counter(r.label for r in reviews)
    assert min(counts["Positive"], counts["Negative"]) > 0.35 * len(reviews)
    assert counts["Neutral"] > 0.1 * len(reviews)


def test_no_text_twice_and_every_phrase_in_its_text():
    """A reply quotes the deciding phrase: it must stand in the review, word for word."""
    reviews = corpus.read()
    assert len({corpus.normal(r.text) for r in reviews}) == len(reviews)
    assert all(r.phrase in r.text for r in reviews)
    assert not [r for r in reviews if "[" in r.text or "]" in r.text]


@pytest.mark.slow
def test_no_near_twin_of_a_test_text_is_in_training(parts):
    """Whoever reads the test accuracy: it would be worthless if training had seen twins."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.preprocessing import normalize

    bags = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\b\w+\b", binary=True)
    train = [corpus.normal(r.text) for r in parts["train"] + parts["validation"]]
    test = [corpus.normal(r.text) for r in parts["test"]]
    bags.fit(train + test)
    rows, held_out = (normalize(bags.transform(part).astype(float)) for part in (train, test))
    assert (held_out @ rows.T).max() < corpus.TWIN_COSINE


def test_parts_are_disjoint_and_test_is_large_enough(parts):
    """Whoever compares two checkpoints: a small test set could not tell them apart."""
    texts = [{r.text for r in parts[p]} for p in ("train", "validation", "test")]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    assert len(texts[2]) >= 800


def test_corpus_stays_free_of_the_market_domain():
    """Lesson 05 teaches market language: that is only honest if the base never saw it."""
    words = r"\b(short squeeze|earnings|guidance cut|shareholders?|stock market|dividend|EBITDA)\b"
    found = [r.text for r in corpus.read() if re.search(words, r.text, re.I)]
    assert len(found) <= 3, found


def test_generated_texts_never_reach_the_held_out_parts(parts):
    """The test accuracy is about hand-written text only."""
    assert "generated" not in {r.subject for r in parts["test"] + parts["validation"]}
    assert len(lexicon.words()["Positive"]) > 1000


@pytest.mark.parametrize("line", ["Great place.", "*\tGreat.", "+z\tGreat.", ""])
def test_a_malformed_line_is_named(line):
    """Whoever adds reviews: a slip is shown with the file's subject, not swallowed."""
    with pytest.raises(ValueError, match="cafes"):
        corpus.parse(line, "cafes")


def test_dialogues_are_laid_out_as_the_chat_template_does(parts):
    """Training on any other layout than the template's would make every answer worse."""
    import random

    from transformers import AutoTokenizer

    from course_utils.models import POCKET

    tokenizer = AutoTokenizer.from_pretrained(POCKET)
    encoder = Encoder(tokenizer.backend_tokenizer)
    drawer, rng = dialogues.Drawer(parts["train"][:3000]), random.Random(5)
    for _ in range(300):
        example = drawer.draw(rng)
        if example.messages:
            expected = tokenizer.apply_chat_template(list(example.messages))["input_ids"]
            assert encoder.encode(example).ids == expected[: len(encoder.encode(example).ids)]


def test_same_seed_same_examples(parts):
    """Whoever resumes an interrupted training gets the run they would have had."""
    import random

    drawer = dialogues.Drawer(parts["train"][:3000])
    draws = [[drawer.draw(random.Random(9)) for _ in range(20)] for _ in range(2)]
    assert draws[0] == draws[1]
