"""A bag-of-words teacher: it labels fragments of reviews, so that the model sees more than reviews.

A logistic regression over word 1–2-grams and character 2–5-grams learns quickly what phrases
mean, much faster than a transformer from scratch does from so few texts. It gives probabilities to
pieces of training reviews and to two pieces joined together; the model learns from those beside
the reviews themselves (knowledge distillation, arXiv 1503.02531).

This module knows neither tokens nor networks.
"""

import random

from pocket_llama.corpus import LABELS as SIGNS
from pocket_llama.corpus import Review

LABELS = tuple(SIGNS.values())


class Teacher:
    """Fitted on reviews; gives probabilities in the order of `LABELS`."""

    def __init__(self, reviews: list[Review]) -> None:
        """Fit on `reviews`: about half a minute for 25,000."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_union

        self.bags = make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\b\w[\w']*\b"),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        )
        rows = self.bags.fit_transform([r.text for r in reviews])
        self.model = LogisticRegression(C=6, max_iter=200).fit(rows, [r.label for r in reviews])
        self.order = [list(self.model.classes_).index(label) for label in LABELS]

    def probabilities(self, texts: list[str]) -> list[tuple[float, ...]]:
        """For each text the probabilities of Positive, Negative and Neutral."""
        found = self.model.predict_proba(self.bags.transform(texts))[:, self.order]
        return [tuple(row) for row in found.tolist()]


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
