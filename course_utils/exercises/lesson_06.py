"""Lesson 06: exercises and self-test."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from course_utils.checks import Exercise, Question, Wrong
from course_utils.exercises import lesson_06_tools, returned


def _tokens(found: Any, asked: str) -> list[int]:
    """An answer as token ids; a set of them, in any order, as well."""
    found = list(found) if isinstance(found, Iterable) and not isinstance(found, str) else found
    return returned.ids(found, f"{asked} it gives {found!r}; a list of token ids is wanted.")


CHOICES = ([5, 9], [5, 7, 9], [6, 9], [6, 8, 2, 9])  # 9 is the end token
NEXT = {(): {5, 6}, (5,): {7, 9}, (6,): {8, 9}, (6, 8): {2}, (5, 7): {9}, (6, 8, 2): {9}}


def _allowed(answer: Callable[[list[int], list[list[int]]], Iterable[int]]) -> str:
    """(tokens written, token lists of the labels) -> the tokens that may come next."""
    for done, wanted in NEXT.items():
        asked = f"After {list(done)}, with the labels {list(CHOICES)},"
        said = answer(list(done), [list(choice) for choice in CHOICES])
        found = _tokens(said, asked)
        if extra := set(found) - wanted:
            raise Wrong(f"{asked} it allows {min(extra)}, and no label goes on like that.")
        if missing := wanted - set(found):
            raise Wrong(f"{asked} it does not allow {min(missing)}, with which a label goes on.")
    if _tokens(answer([5, 9], [[5, 9], [6, 9]]), "After [5, 9], a whole label,"):
        raise Wrong(
            "After a whole label, end token included, nothing more may come; it allows some."
        )
    return "One label is a prefix of another here: the end token is what tells them apart."


LINES = (  # log-odds, labels, the most that any line gets right
    ([4.0, 5.0, 6.5, 7.0], ["Negative", "Negative", "Positive", "Positive"], 4),
    ([-3.0, -1.0, -2.0, -4.0], ["Negative", "Positive", "Positive", "Negative"], 4),
    ([0.5, 2.0, 1.0, 3.0, 1.5], ["Negative", "Positive", "Negative", "Positive", "Positive"], 5),
    ([3.0, 1.0, 2.0, 5.0, 4.0], ["Positive", "Negative", "Positive", "Positive", "Negative"], 4),
    ([1.0, 2.0, 3.0], ["Positive", "Positive", "Positive"], 3),
    ([1.0, 2.0, 3.0], ["Negative", "Negative", "Negative"], 3),
)


def _line(answer: Callable[[list[float], list[str]], float]) -> str:
    """(log-odds, labels) -> the line above which most are rightly called Positive."""
    for odds, labels, most in LINES:
        asked = f"For the log-odds {odds} of {labels}"
        line = returned.number_for(asked, answer(list(odds), list(labels)))
        right = sum(
            (one > line) == (label == "Positive") for one, label in zip(odds, labels, strict=True)
        )
        if math.isnan(line):
            raise Wrong(f"{asked} it gives nan, above which nothing is.")
        if right < most:
            raise Wrong(f"{asked} the line {line:g} gets {right} right, and {most} can be.")
    return "It was chosen on these reviews: how good it is, only others can say."


SAID = (  # chances, whether it came true, how far off on average
    ([0.9, 0.9, 0.9, 0.9], [1, 1, 0, 0], 0.4),
    ([0.2, 0.2, 0.8, 0.8], [0, 0, 1, 1], 0.2),
    ([0.1, 0.1, 0.1, 0.7], [0, 0, 0, 0], 0.25),
    ([0.5, 0.5, 0.5, 0.5, 0.9], [1, 0, 1, 0, 1], 0.02),
    ([0.62, 0.58, 0.62, 0.58, 0.62, 0.58], [1, 1, 1, 0, 1, 0], (0.38 + 0.58 - 1 / 3) / 2),
)


def _off(answer: Callable[[list[float], list[int]], float]) -> str:
    """(chances said, 1 where it came true) -> mean distance of what was said from what was."""
    for chances, came, wanted in SAID:
        asked = f"For the chances {chances} and {came}"
        found = returned.number_for(asked, answer(list(chances), list(came)))
        if abs(found - wanted) <= 1e-6:
            continue
        brier = sum((c - t) ** 2 for c, t in zip(chances, came, strict=True)) / len(came)
        each = sum(abs(c - t) for c, t in zip(chances, came, strict=True)) / len(came)
        whole = abs(sum(chances) - sum(came)) / len(came)
        if min(abs(found - brier), abs(found - each)) <= 1e-6:
            raise Wrong(f"{asked} it compares one by one. Group those of equal chance first.")
        if abs(found - whole) <= 1e-6:
            raise Wrong(f"{asked} it compares two means over all: too high and too low cancel out.")
        raise Wrong(
            f"{asked} it gives {found:g}. How many are there of each chance, and how many came?"
        )
    return "A model can be calibrated and know nothing: always saying 0.5 of coins is perfect."


EXERCISES: dict[str, Exercise] = {
    "06.1": Exercise(
        "what may come next",
        _allowed,
        (
            "Which labels begin with what has been written? Look at the token after that.",
            "choice[: len(done)] == done tells whether a label begins so.",
            "{c[len(done)] for c in choices if c[: len(done)] == done and len(c) > len(done)}",
        ),
    ),
    "06.2": Exercise(
        "the best line",
        _line,
        (
            "There are only a few lines that differ: at each number, and one below all of them.",
            "Count for each such line how many it gets right, and take the one with the most.",
            "max([min(odds) - 1, *odds], key=lambda line: sum((o > line) == (l == 'Positive') …))",
        ),
    ),
    "06.3": Exercise(
        "how far off",
        _off,
        (
            "Put the reviews of equal chance into one group.",
            "In each group: the share that came true, and its distance from the chance said.",
            "Add up distance times size of the group, and divide by the number of all.",
        ),
    ),
    **lesson_06_tools.EXERCISES,
}

QUIZ = [
    Question(
        "A constraint lets the model write only JSON of your schema. What do you know of a reply?",
        (
            (
                "That it is right, since only right answers were allowed.",
                "It is of the right form. What stands in it the model chose.",
            ),
            ("That a program can read it.", "That is what a constraint gives, and all it gives."),
            ("That it is what the model would have said freely.", "Freely it may have chatted."),
        ),
        1,
    ),
    Question(
        "Bounded, a model says Positive to 95 of 100 reviews, half of them bad. Is it useless?",
        (
            ("Yes: it cannot tell them apart.", "That was not looked at: its scores may differ."),
            ("No: its scores may still stand in the right order.", "Then a moved line finds it."),
            ("No: it is still right about half of them, which is something.", "So is a coin."),
        ),
        1,
    ),
    Question(
        "A model says 0.9 a hundred times and is right 70 times. It is…",
        (
            ("too sure of itself.", "Of those 100 it promised 90."),
            ("well calibrated.", "Then it would have been right about 90 times."),
            ("wrong 90 times.", "It was right 70 times."),
        ),
        0,
    ),
    *lesson_06_tools.QUIZ,
]
