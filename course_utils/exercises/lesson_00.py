"""Lesson 00: exercises and self-test."""

import re
from typing import Any

from course_utils.checks import Exercise, Question, Wrong
from course_utils.exercises import returned
from course_utils.sentiment import messages, parse_label


def _negative_review(answer: Any) -> str:
    """(review, complete): negative to the model, without the three words."""
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise Wrong("Leave the line with check(...) as it was: it passes (my_review, complete).")
    review, complete = answer
    if not isinstance(review, str):
        raise Wrong(f"my_review should be a text in quotes, not {type(review).__name__}.")
    used = re.search(r"\b(?:bad|not|never)\b|\w*n['’]t\b", review, re.IGNORECASE)
    if used:
        raise Wrong(f"It holds {used[0]!r}; do without bad, not (or n't) and never.")
    if len(re.findall(r"\S*\w\S*", review)) < 3:
        raise Wrong(f"{review!r} is too short: make it a sentence of at least three words.")
    reply = complete(messages(review))
    if parse_label(reply) != "Negative":
        raise Wrong(f"To {review!r} the model answers {reply!r}.")
    return "Facts can be as clear as opinions."


def _messages(answer: Any) -> str:
    """The two messages, in order; the user's may put the review into a question."""
    if not isinstance(answer, list | tuple) or not all(isinstance(m, dict) for m in answer):
        raise Wrong(f"It should be a list of dictionaries; it is {answer!r}.")
    roles = [m.get("role") for m in answer]
    if roles != ["system", "user"]:
        raise Wrong(f"The roles should be system, then user; yours are {roles}.")
    system, user = (m.get("content") for m in answer)
    if not isinstance(system, str) or system.strip() != "Answer with one word.":
        raise Wrong(f"The system message's content is another text: {system!r}.")
    if not isinstance(user, str) or "Nice staff." not in user:
        raise Wrong(f"The user message should hold the review Nice staff.; it holds {user!r}.")
    return "Every chat model you will meet takes this list."


GLAD = ["I love it, great food.", "Wonderful, the best lunch in years."]
ANGRY = ["Terrible, what a waste of money.", "Terrible food, I would love to get my money back."]


def _count_positive(answer: Any) -> str:
    """count_positive, or (count_positive, complete): how many the model calls Positive."""
    count, complete = answer if isinstance(answer, tuple) else (answer, None)

    def positive(review: str) -> bool:
        if complete is None:  # then as any model would
            return review in GLAD
        return parse_label(complete(messages(review))) == "Positive"

    called = {review: positive(review) for review in GLAD + ANGRY}
    for reviews in (GLAD[:1], ANGRY[:1], ANGRY + GLAD, GLAD * 3 + ANGRY[:1], []):
        given = list(reviews)
        got = count(given)
        told = f"For {reviews} it returned {got!r}"
        right = sum(called[review] for review in reviews)
        if returned.number(got, f"{told}, which is no number.") != right:
            raise Wrong(f"{told}; the model calls {right} of these {len(reviews)} Positive.")
        if given != list(reviews):
            raise Wrong(f"It changed the list that it was given: {reviews} became {given}.")
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
        patience=600,  # seven reviews, by a model that may be a large one on a slow machine
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
