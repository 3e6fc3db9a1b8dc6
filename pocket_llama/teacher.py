"""A bag-of-words teacher: it labels fragments of reviews, so that the model sees more than reviews.

A logistic regression over word 1–2-grams and character 2–5-grams learns quickly what phrases
mean, much faster than a transformer from scratch does from so few texts. It gives probabilities to
pieces of training reviews and to two pieces joined together; the model learns from those beside
the reviews themselves (knowledge distillation, arXiv 1503.02531).

This module knows neither tokens nor networks.
"""

import random

from pocket_llama import lexicon
from pocket_llama.corpus import LABELS as SIGNS
from pocket_llama.corpus import Review

LABELS = tuple(SIGNS.values())


class Teacher:
    """Fitted on reviews; gives probabilities in the order of `LABELS`."""

    def __init__(self, reviews: list[Review]) -> None:
        """Fit on `reviews`, their deciding words and generated texts: about a minute."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_union

        self.bags = make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\b\w[\w']*\b"),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        )
        texts = [(r.text, r.label, 1.0) for r in reviews]
        rng = random.Random(0)
        texts += [(around_phrase(r, rng), r.label, 0.5) for r in reviews if r.phrase]
        neutral = [r.text for r in reviews if r.label == "Neutral"]
        words = [lexicon.draw(rng, neutral) for _ in range(len(reviews) // 5)]
        texts += [(r.text, r.label, 0.5) for r in words]
        rows = self.bags.fit_transform([text for text, _, _ in texts])
        self.model = LogisticRegression(C=6, max_iter=200).fit(
            rows, [label for _, label, _ in texts], sample_weight=[w for _, _, w in texts]
        )
        self.order = [list(self.model.classes_).index(label) for label in LABELS]

    def probabilities(self, texts: list[str]) -> list[tuple[float, ...]]:
        """For each text the probabilities of Positive, Negative and Neutral."""
        found = self.model.predict_proba(self.bags.transform(texts))[:, self.order]
        return [tuple(row) for row in found.tolist()]


def around_phrase(review: Review, rng: random.Random) -> str:
    """The review's deciding words with a few of the words before and after them."""
    before, _, after = review.text.partition(review.phrase)
    left, right = rng.choice([0, 0, 1, 2, 3, 5]), rng.choice([0, 0, 1, 2, 4])
    words = before.split()
    return " ".join([*words[max(0, len(words) - left) :], review.phrase, *after.split()[:right]])


def fragment(text: str, rng: random.Random, longest: int) -> str:
    """A run of 2 to `longest` words out of `text`."""
    words = text.split()
    length = min(len(words), rng.randint(2, longest))
    start = rng.randrange(len(words) - length + 1)
    return " ".join(words[start : start + length])


def draw(reviews: list[Review], rng: random.Random) -> str:
    """One fragment of a review, or two of different reviews joined."""
    if rng.random() < 0.5:
        return fragment(rng.choice(reviews).text, rng, 9)
    joint = rng.choice([" ", ", ", " and ", ". ", " but "])
    return joint.join(fragment(rng.choice(reviews).text, rng, 12) for _ in range(2))
