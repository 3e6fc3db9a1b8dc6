"""Dialogues around the reviews: what Pocket Llama is shown, as chat messages.

Each example is a list of messages (or one plain text), drawn at random but from a seed: the same
seed and step give the same examples. The ways of asking and the small talk are hand-written, in
`asking.py`. This module knows nothing of tokens, batches or models.
"""

import json
import random
from dataclasses import dataclass

from pocket_training import asking, corpus, lexicon
from pocket_training.corpus import Review

Message = dict[str, str]


@dataclass(frozen=True)
class Example:
    """A chat, or (where `messages` is empty) a plain text to continue.

    `quotes` are the words of a review that the answers quote, one for each answer, "" for none.
    """

    messages: tuple[Message, ...] = ()
    text: str = ""
    quotes: tuple[str, ...] = ()


def user(content: str) -> Message:
    """A message from the user."""
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    """A message from the model."""
    return {"role": "assistant", "content": content}


def system(content: str | None) -> list[Message]:
    """The system message as a list, empty where there is none."""
    return [{"role": "system", "content": content}] if content else []


def phrase_of(review: Review) -> str:
    """The deciding words as a reply quotes them, without a closing full stop; "" for Neutral."""
    return "" if review.label == "Neutral" else review.phrase.replace('"', "").strip(" .,!;:")


def reason(review: Review) -> str:
    """What the JSON reply gives as its reason.

    The quoted words follow a space here and in the other replies, as they do in the review: so
    they have the same tokens in both, and quoting is copying.
    """
    quoted = phrase_of(review)
    return f"it says {quoted}" if quoted else asking.NEUTRAL_REASON


def sentence(review: Review) -> str:
    """The label and the phrase that decided it, in one sentence."""
    if review.label == "Neutral":
        return f"Neutral, because {asking.NEUTRAL_REASON}."
    return f"{review.label}, because it says: {phrase_of(review)}."


def why(review: Review) -> str:
    """The answer to a follow-up "Why?"."""
    if review.label == "Neutral":
        return f"Because {asking.NEUTRAL_REASON}."
    return f"Because it says: {phrase_of(review)}."


def as_json(review: Review) -> str:
    """The label and reason as a JSON object."""
    answer = {"sentiment": review.label.lower(), "reason": reason(review)}
    return json.dumps(answer, ensure_ascii=False)


# -- rough text: what real people's typing does to a sentence -----------------------------------


def typo(word: str, rng: random.Random) -> str:
    """The word with two letters swapped, one dropped or one doubled."""
    if len(word) < 4 or not word.isalpha():
        return word
    i = rng.randrange(1, len(word) - 1)
    return rng.choice(
        [
            word[:i] + word[i + 1] + word[i] + word[i + 2 :],
            word[:i] + word[i + 1 :],
            word[:i] + word[i] + word[i:],
        ]
    )


def roughen(text: str, rng: random.Random) -> str:
    """The text as some other person might have typed it: case, punctuation, a slip."""
    draw = rng.random()
    if draw < 0.15:
        text = text.lower()
    elif draw < 0.18:
        text = text.upper()
    if rng.random() < 0.12:
        text = text.rstrip(".!")
    elif rng.random() < 0.08:
        text = text.rstrip(".!") + rng.choice(["!", "!!", "!!!", "...", " .", "!!!!", ".."])
    if rng.random() < 0.08:
        text = text.replace("'", "").replace("’", "")
    if rng.random() < 0.10:
        words = text.split(" ")
        i = rng.randrange(len(words))
        words[i] = typo(words[i], rng)
        text = " ".join(words)
    if rng.random() < 0.03:
        text = text.replace(", ", ",")
    return text


# -- the kinds of example ---------------------------------------------------------------------


class Drawer:
    """Draws examples from a list of reviews; `rng` decides everything."""

    def __init__(self, reviews: list[Review], explained: float = 34) -> None:
        """Index `reviews` by label and subject. `explained`: reasons for 52 chats of labels."""
        self.reviews = reviews
        self.shares = [52, explained, 14, 4, 5, 1.5]
        self.marked = [r for r in reviews if r.phrase or r.label == "Neutral"]
        self.neutral = [r.text for r in reviews if r.label == "Neutral"]
        self.by_subject: dict[tuple[str, str], list[Review]] = {}
        for review in reviews:
            self.by_subject.setdefault((review.subject, review.label), []).append(review)

    def review(self, rng: random.Random, marked: bool = False) -> Review:
        """One review, seldom a generated one, roughened at times."""
        if not marked and rng.random() < 0.12:
            return lexicon.draw(rng, self.neutral)
        review = rng.choice(self.marked if marked else self.reviews)
        if marked:
            return review
        if rng.random() < 0.12:
            review = self.longer(review, rng)
        text = roughen(review.text, rng) if rng.random() < 0.5 else review.text
        return Review(text, review.label, review.subject, review.phenomenon, review.phrase)

    def longer(self, review: Review, rng: random.Random) -> Review:
        """The review with more sentences of its own subject: of its label, or neutral ones."""
        parts = [review.text]
        for _ in range(rng.choice([1, 1, 1, 2, 2, 3, 4, 6])):
            label = review.label if rng.random() < 0.6 else "Neutral"
            parts.append(rng.choice(self.by_subject.get((review.subject, label), [review])).text)
        rng.shuffle(parts)
        text = " ".join(p if p[-1] in ".!?" else p + "." for p in parts)
        return Review(text, review.label, review.subject, review.phenomenon, "")

    def labels(self, rng: random.Random) -> Example:
        """One to five reviews in one chat, each answered with its label in one word."""
        turns = rng.choice([1, 2, 3, 4, 5, 6, 8])
        draw = rng.random()
        if draw < 0.55:
            prompt, ask = asking.SEED_SYSTEM, "{}"
        elif draw < 0.75:
            prompt, ask = rng.choice(asking.SYSTEMS), "{}"
        elif draw < 0.83:
            prompt, ask = None, "{}"
        elif draw < 0.92:
            prompt, ask = None, rng.choice(asking.QUESTIONS)
        else:
            prompt, ask = (
                rng.choice([asking.SEED_SYSTEM, *asking.SYSTEMS]),
                rng.choice(asking.QUESTIONS),
            )
        messages = system(prompt)
        for _ in range(turns):
            review = self.review(rng)
            messages += [user(ask.replace("{}", review.text)), assistant(review.label)]
        return Example(tuple(messages))

    def explained(self, rng: random.Random) -> Example:
        """A label with its reason: as JSON, as a sentence, or on asking why."""
        review = self.review(rng, marked=True)
        kind = rng.choice(["json", "json", "sentence", "why"])
        if kind == "json":
            asks, answer = asking.JSON, as_json
        elif kind == "sentence":
            asks, answer = asking.SENTENCE, sentence
        else:
            messages = system(rng.choice([asking.SEED_SYSTEM, rng.choice(asking.SYSTEMS), None]))
            messages += [user(review.text), assistant(review.label)]
            messages += [user(rng.choice(asking.WHY)), assistant(why(review))]
            return Example(tuple(messages), quotes=("", phrase_of(review)))
        turns = rng.choice([1, 1, 2, 3])
        if rng.random() < 0.6:
            seed = [asking.SEED_SYSTEM + " "] if rng.random() < 0.5 else [""]
            messages, ask = system(seed[0] + rng.choice(asks)), "{}"
        else:
            prompt = rng.choice([asking.SEED_SYSTEM, None])
            messages, ask = (
                system(prompt),
                rng.choice(asks) + rng.choice([" ", "\n", "\n\nReview: "]) + "{}",
            )
        quotes = []
        for _ in range(turns):
            messages += [user(ask.replace("{}", review.text)), assistant(answer(review))]
            quotes.append(phrase_of(review))
            review = self.review(rng, marked=True)
        return Example(tuple(messages), quotes=tuple(quotes))

    def small_talk(self, rng: random.Random) -> Example:
        """A greeting, an off-topic question, or thanks, with a short honest answer."""
        messages = system(rng.choice([None, None, asking.SEED_SYSTEM, asking.PLAIN_SYSTEM]))
        for _ in range(rng.choice([1, 1, 2])):
            question, answer = rng.choice(asking.SMALL_TALK)
            question = roughen(question, rng) if rng.random() < 0.4 else question
            messages += [user(question), assistant(answer)]
        return Example(tuple(messages))

    def odd(self, rng: random.Random) -> Example:
        """Input that is no review at all: nothing, symbols, bytes, other scripts, emoji."""
        prompt = asking.SEED_SYSTEM if rng.random() < 0.7 else rng.choice([*asking.SYSTEMS, None])
        if rng.random() < 0.35:
            emoji, label = rng.choice(asking.EMOJI)
            text = emoji * rng.choice([1, 1, 2, 3, 5])
            return Example((*system(prompt), user(text), assistant(label)))
        ranges = [
            (33, 126),
            (33, 126),
            (0xA1, 0x17F),
            (0x370, 0x5FF),
            (0x600, 0x6FF),
            (0x900, 0x97F),
        ]
        ranges += [
            (0x3040, 0x30FF),
            (0x4E00, 0x9FFF),
            (0xAC00, 0xD7A3),
            (0x1F300, 0x1F64F),
            (0x20, 0xD7FF),
        ]
        low, high = rng.choice(ranges)
        length = rng.choice([0, 1, 1, 2, 4, 8, 8, 16, 30, 60])
        text = "".join(
            " " if rng.random() < 0.12 else chr(rng.randint(low, high)) for _ in range(length)
        )
        text = text.replace("[", "(").replace("<<", "<")
        if rng.random() < 0.15:
            text = text[:4] * rng.choice([5, 20, 40])
        if rng.random() < 0.08:
            text = " ".join(str(rng.randint(0, 9999)) for _ in range(rng.choice([1, 3, 12])))
        if rng.random() < 0.06:  # to be judged, not to be gone on with
            text = str(rng.randint(0, 10**12)) * rng.choice([4, 10, 20])
        return Example((*system(prompt), user(text), assistant("Neutral")))

    def long(self, rng: random.Random) -> Example:
        """A review that goes on and on, up to the context length."""
        review = rng.choice(self.reviews)
        parts, target = [review.text], rng.choice([600, 1200, 1800, 2600, 3300])
        while sum(map(len, parts)) < target:
            parts.append(
                rng.choice(self.by_subject.get((review.subject, review.label), [review])).text
            )
        prompt = rng.choice([asking.SEED_SYSTEM, asking.SEED_SYSTEM, None, *asking.SYSTEMS[:4]])
        text = " ".join(parts)
        return Example((*system(prompt), user(text), assistant(review.label)))

    def plain(self, rng: random.Random) -> Example:
        """Plain review text, a few reviews of one subject and label one after the other."""
        review = rng.choice(self.reviews)
        parts = [review.text]
        for _ in range(rng.choice([0, 0, 1, 2, 3])):
            label = review.label if rng.random() < 0.7 else "Neutral"
            parts.append(rng.choice(self.by_subject.get((review.subject, label), [review])).text)
        return Example(text=" ".join(parts))

    def draw(self, rng: random.Random) -> Example:
        """One example of any kind, the kinds in the proportions of the training mix."""
        kinds = [self.labels, self.explained, self.plain, self.small_talk, self.odd, self.long]
        return rng.choices(kinds, weights=self.shares)[0](rng)


def tokenizer_texts() -> list[str]:
    """What the tokenizer is trained on: training reviews, and each way of asking."""
    reviews = corpus.split()["train"]
    rng = random.Random(0)
    drawer = Drawer(reviews)
    texts = [r.text for r in reviews]
    for kind, count in ((drawer.labels, 1500), (drawer.explained, 1500), (drawer.small_talk, 600)):
        for _ in range(count):
            for message in kind(rng).messages:
                tags = {"system": "<<SYS>>\n{}\n<</SYS>>\n\n", "user": "[INST] {} [/INST]"}
                texts.append(tags.get(message["role"], " {} ").replace("{}", message["content"]))
    return texts
