"""A teacher that counts: it says after every word of a review what the words so far mean.

A logistic regression learns quickly what phrases mean, much faster than a transformer from scratch
does from so few texts. It counts words and runs of two and three, pairs with one or two other words
between them, words behind a negation, and pieces of words of 2 to 5 characters. It judges every
beginning of every training review, and of pieces of reviews joined together, so that the model gets
one target a word instead of one a review (knowledge distillation, arXiv 1503.02531). It never
judges what it was fitted on: each fifth of the reviews is judged by a teacher that knows the other
four.

This module knows neither tokens nor networks.
"""

import random
import re
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from pocket_training import corpus, lexicon
from pocket_training.corpus import LABELS as SIGNS
from pocket_training.corpus import Review

LABELS = tuple(SIGNS.values())
TIMES = 4  # rounds of pieces: where the model agreed with its teacher in 85 of 100 pieces it had
# been taught, it did in 83 of 100 fresh ones
NEGATED = 4  # words behind a negation, up to the next mark, that count as negated
NEGATION = re.compile(
    r"no|not|never|nothing|nobody|none|nor|neither|nowhere|without|hardly|barely|cannot"
    r"|\w*n't|(do|ca|wo|did|does|is|was|could|would)nt"
)
TOKEN = r"\w[\w']*|[.,;:!?()\-–—]+"  # words and marks


def words(text: str) -> list[str]:
    """The text's words and marks, in small letters."""
    return re.findall(TOKEN, text.lower().replace("’", "'"))


def apart(text: str) -> list[str]:
    """Pairs of words that have one or two others between them: "not … good", "but … cold"."""
    found = [word for word in words(text) if word[0].isalnum()]
    return [f"{one} {other}" for i, one in enumerate(found) for other in found[i + 2 : i + 4]]


def negated(text: str) -> list[str]:
    """The words behind a negation, which end at a mark."""
    found, left = [], 0
    for word in words(text):
        left = left if word[0].isalnum() else 0
        if left:
            found.append(word)
            left -= 1
        if NEGATION.fullmatch(word):
            left = NEGATED
    return found


class Teacher:
    """Fitted on reviews; gives probabilities in the order of `LABELS`."""

    def __init__(self, reviews: list[Review]) -> None:
        """Fit on `reviews`, their deciding words and generated texts: about a minute."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_union

        self.bags = make_union(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\b\w[\w']*\b"),
            TfidfVectorizer(ngram_range=(2, 3), sublinear_tf=True, token_pattern=TOKEN, min_df=2),
            TfidfVectorizer(analyzer=apart, sublinear_tf=True, min_df=2),
            TfidfVectorizer(analyzer=negated, sublinear_tf=True, min_df=2),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        )
        texts = [(r.text, r.label, 1.0) for r in reviews]
        rng = random.Random(0)
        texts += [(around_phrase(r, rng), r.label, 0.5) for r in reviews if r.phrase]
        neutral = [r.text for r in reviews if r.label == "Neutral"]
        generated = [lexicon.draw(rng, neutral) for _ in range(len(reviews) // 5)]
        texts += [(r.text, r.label, 0.5) for r in generated]
        rows = self.bags.fit_transform([text for text, _, _ in texts])
        self.model = LogisticRegression(C=12, max_iter=100).fit(
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
    ahead = before.split()
    return " ".join([*ahead[max(0, len(ahead) - left) :], review.phrase, *after.split()[:right]])


def fragment(text: str, rng: random.Random, longest: int) -> str:
    """A run of 2 to `longest` words out of `text`."""
    found = text.split()
    length = min(len(found), rng.randint(2, longest))
    start = rng.randrange(len(found) - length + 1)
    return " ".join(found[start : start + length])


@dataclass(frozen=True)
class Judged:
    """A text and the teacher's view of it: `chances` is (words, 3), one row for each beginning.

    `label` is the author's label where the text is a whole review, "" where it is a piece.
    """

    text: str
    label: str
    chances: np.ndarray


def pieces(reviews: list[Review], rng: random.Random, times: int = TIMES) -> list[str]:
    """`times` fragments of each review, and as many pairs of fragments."""
    reviews = reviews * times
    single = [fragment(r.text, rng, 10) for r in reviews]
    joints = (" ", " and ", ", ", ". ", " but ", ", but ", " though ")
    pairs = [
        rng.choice(joints).join(fragment(rng.choice(reviews).text, rng, 12) for _ in range(2))
        for _ in reviews
    ]
    return single + pairs


def judge(teacher: Teacher, texts: list[str]) -> list[np.ndarray]:
    """For each text the teacher's probabilities after each of its words, of shape (words, 3)."""
    rows = [text.split() for text in texts]
    beginnings = [" ".join(row[: i + 1]) for row in rows for i in range(len(row))]
    parts = [beginnings[i : i + 20_000] for i in range(0, len(beginnings), 20_000)]
    found = [np.array(teacher.probabilities(part), dtype=np.float32) for part in parts]
    ends = np.cumsum([len(row) for row in rows])[:-1]
    return np.split(np.concatenate(found), ends)


def judged(reviews: list[Review], seed: int = 0, folds: int = 5) -> list[Judged]:
    """All reviews and pieces of them, judged by teachers that have not seen them: minutes.

    The folds keep families together, so that no near-twin of a judged review taught its judge.
    Several are judged at the same time, one on each core.
    """
    from joblib import Parallel, delayed
    from sklearn.model_selection import GroupKFold

    groups = corpus.families([r.text for r in reviews])
    parts = GroupKFold(folds).split(reviews, groups=groups)
    calls = (
        delayed(judged_fold)([reviews[i] for i in known], [reviews[i] for i in held], f"{seed}:{n}")
        for n, (known, held) in enumerate(parts)
    )
    found = Parallel(n_jobs=-1, return_as="generator")(calls)
    bar = tqdm(found, total=folds, unit="fold", desc="teachers")
    return [text for fold in bar for text in fold]


def judged_fold(known: list[Review], held: list[Review], seed: str) -> list[Judged]:
    """The `held` reviews and pieces of them, judged by a teacher that has seen the `known` ones."""
    rng = random.Random(f"pieces:{seed}")
    labelled = [(r.text, r.label) for r in held] + [(text, "") for text in pieces(held, rng)]
    chances = judge(Teacher(known), [text for text, _ in labelled])
    return [Judged(*pair, c) for pair, c in zip(labelled, chances, strict=True)]
