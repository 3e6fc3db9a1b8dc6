"""Lesson 00: exercises and self-test."""

import re
from collections.abc import Callable
from typing import Any

from course_utils.checks import Exercise, Question, Wrong
from course_utils.sentiment import messages, parse_label


def _negative_review(answer: Any) -> str:
    """(review, complete): negative to the model, without the three words."""
    review, complete = answer
    if not isinstance(review, str):
        raise Wrong("my_review should be a text in quotes.")
    used = re.findall(r"\b(bad|not|never)\b|n['’]t\b", review.lower())
    if used:
        raise Wrong("It holds bad, not (or n't) or never.")
    if len(review.split()) < 3:
        raise Wrong("Make it a sentence of at least three words.")
    reply = complete(messages(review))
    if parse_label(reply) != "Negative":
        raise Wrong(f"The model answers {reply!r}.")
    return "Facts can be as clear as opinions."


def _messages(answer: Any) -> str:
    """The two messages, in order."""
    if not isinstance(answer, list) or not all(isinstance(m, dict) for m in answer):
        raise Wrong("It should be a list of dictionaries.")
    if [m.get("role") for m in answer] != ["system", "user"]:
        raise Wrong("The roles should be system, then user.")
    if answer[0].get("content") != "Answer with one word.":
        raise Wrong("The system message's content is another text.")
    if answer[1].get("content") != "Nice staff.":
        raise Wrong("The user message's content should be the review and nothing else.")
    return "Every chat model you will meet takes this list."


def _count_positive(answer: Callable[[list[str]], int]) -> str:
    """Counts reviews the model calls Positive."""
    both = answer(["I love it, great food.", "Terrible, what a waste of money."])
    if both != 1:
        raise Wrong(f"For one glowing and one angry review it returned {both!r}.")
    if answer([]) != 0:
        raise Wrong("For an empty list it should return 0.")
    if answer(["I love it, great food."] * 3) != 3:
        raise Wrong("Three glowing reviews should count as 3.")
    return "You have built a dashboard."


EXERCISES = {
    "00.1": Exercise(
        "a negative review without negative words",
        _negative_review,
        (
            "Say what happened instead of what you think of it.",
            "Things that break, waiting times and money back are facts that judge.",
            "Try something like: We waited an hour and left hungry.",
        ),
    ),
    "00.2": Exercise(
        "the messages",
        _messages,
        (
            "Look at the cell in section 1: a list with two dictionaries.",
            'Each dictionary has the keys "role" and "content".',
            'The first is {"role": "system", "content": ...}; the second has the role "user".',
        ),
    ),
    "00.3": Exercise(
        "count positives",
        _count_positive,
        (
            "Go through the reviews, ask about each one, and count.",
            "complete(ask(review)) gives the reply; parse_label(reply) gives the label.",
            'sum(parse_label(complete(ask(r))) == "Positive" for r in reviews)',
        ),
    ),
}

QUIZ = [
    Question(
        "What does a language model do, at bottom?",
        (
            (
                "It looks words up in a list of good and bad ones.",
                'There is no such list: "not bad at all" would count as bad.',
            ),
            (
                "It continues a text, one token after another.",
                "Everything else, chat included, is built from predicting the next token.",
            ),
            (
                "It searches the web for texts like yours.",
                "It worked without a network. All it knows is in its weights.",
            ),
        ),
        1,
    ),
    Question(
        "Where does the text you type go in the pocket tier?",
        (
            (
                "Nowhere: the model runs in this process, on your own machine.",
                "No network is used at all; you can pull the plug and run the lesson again.",
            ),
            (
                "To a server that the course runs on the web.",
                "The course has no server. Lesson 01 starts one too, on your machine.",
            ),
            (
                "To the hub from which the model came.",
                "Pocket Llama came with the course, and the hub is switched off.",
            ),
        ),
        0,
    ),
    Question(
        "A number in a lesson is marked 'recorded'. What does that mean?",
        (
            (
                "It was worked out from a formula in the helper package.",
                "Such a number is marked 'predicted'.",
            ),
            (
                "It was measured in the run that you are looking at.",
                "Such a number is marked 'measured'.",
            ),
            (
                "It was measured earlier, on another machine.",
                "The machine is named, with the date and the script that wrote the number.",
            ),
        ),
        2,
    ),
    Question(
        "Why is 'The shop opens at nine.' Neutral?",
        (
            (
                "A text this short cannot be judged by a model.",
                "'Great soup!' is shorter, and Positive.",
            ),
            (
                "It states a fact, and nobody's opinion of it.",
                "Neutral means that the text takes no side.",
            ),
            (
                "Shops are neither good nor bad.",
                "People praise and condemn shops every day.",
            ),
        ),
        1,
    ),
]
