"""A small generator that widens vocabulary cover: opinion words and phrases in short texts.

The phrases are hand-written, in `phrases/positive.txt` and `phrases/negative.txt`. They stand
alone, two or three together, or beside a neutral sentence of the corpus. The words, with their
polarity, come from the lexicon inside the package vaderSentiment (C. Hutto
and E. Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
Text", ICWSM 2014; MIT licence), which is read at training time and not copied here. Generated
texts are about one in eight of the reviews that the model is shown, and never in its test set.
"""

import random
from functools import cache
from pathlib import Path

from pocket_training.corpus import Review

CLEAR = 1.2  # mean valence (of -4 to 4) from which a word counts as clearly positive or negative
THINGS = [
    "food",
    "service",
    "place",
    "staff",
    "room",
    "movie",
    "story",
    "phone",
    "case",
    "sound",
    "acting",
    "book",
    "game",
    "app",
    "waiter",
    "screen",
    "battery",
    "price",
    "quality",
    "ending",
    "music",
    "plot",
    "fit",
    "delivery",
    "owner",
    "seller",
    "kitchen",
    "hotel",
    "script",
]
SHAPES = {
    "plain": [
        "{w}", "{w}.", "{w}!", "The {t} was {w}.", "The {t} is {w}.", "It was {w}.", "so {w}",
        "Very {w} {t}.", "the {t} here is really {w}", "Such a {w} {t}.", "Simply {w}.",
        "I found the {t} {w}.", "{w} {t}, {w2} {t2}.", "The {t} was {w} and the {t2} was {w2}.",
        "I thought it was {w}.", "What a {w} {t}!", "Really {w}!", "{w} and {w2}.",
        "Overall a {w} {t}.", "The {t} turned out to be {w}.", "Everything about it is {w}.",
    ],
    "negation": [
        "The {t} is not {w}.", "It wasn't {w} at all.", "not {w}", "The {t} isn't very {w}.",
        "Nothing {w} about the {t}.", "I wouldn't call it {w}.", "not {w} and not {w2}",
        "The {t} was never {w}.", "It is hardly {w}.",
    ],
}  # fmt: skip


@cache
def words() -> dict[str, list[str]]:
    """The clearly positive and clearly negative words of the lexicon, plain words only."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    found: dict[str, list[str]] = {"Positive": [], "Negative": []}
    for word, valence in sorted(SentimentIntensityAnalyzer().lexicon.items()):
        if word.isalpha() and len(word) > 2 and abs(valence) >= CLEAR:
            found["Positive" if valence > 0 else "Negative"].append(word)
    return found


@cache
def phrases(label: str) -> list[str]:
    """The hand-written phrases of one polarity."""
    path = Path(__file__).parent / "phrases" / f"{label.lower()}.txt"
    return path.read_text(encoding="utf-8").splitlines()


def draw(rng: random.Random, neutral: list[str]) -> Review:
    """One generated text; `neutral` are neutral sentences that a phrase may stand beside."""
    return word_text(rng) if rng.random() < 0.5 else phrase_text(rng, neutral)


def phrase_text(rng: random.Random, neutral: list[str]) -> Review:
    """One to three phrases of one polarity, at times with a neutral sentence."""
    label = rng.choice(["Positive", "Negative"])
    chosen = rng.sample(phrases(label), rng.choice([1, 1, 1, 2, 3]))
    text = rng.choice([", ", ", ", " and ", ". ", "! "]).join(chosen)
    if rng.random() < 0.6:
        text = text[0].upper() + text[1:] + rng.choice([".", "!", ".", "", "!!"])
    phrase = chosen[0]
    if rng.random() < 0.4:
        fact = rng.choice(neutral)
        end = "" if text[-1] in ".!" else "."
        text = f"{fact} {text}" if rng.random() < 0.5 else f"{text}{end} {fact}"
    return Review(text, label, "generated", "plain", phrase if phrase in text else "")


def word_text(rng: random.Random) -> Review:
    """One or two lexicon words in a plain sentence. A negated word turns its label round."""
    label = rng.choice(["Positive", "Negative"])
    kind = "negation" if rng.random() < 0.2 else "plain"
    text = rng.choice(SHAPES[kind]).format(
        w=rng.choice(words()[label]),
        w2=rng.choice(words()[label]),
        t=rng.choice(THINGS),
        t2=rng.choice(THINGS),
    )
    if kind == "negation":
        label = "Negative" if label == "Positive" else "Positive"
    return Review(
        text[0].upper() + text[1:] if rng.random() < 0.5 else text, label, "generated", kind, ""
    )
