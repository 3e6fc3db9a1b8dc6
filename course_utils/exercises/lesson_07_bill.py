"""Lesson 07's exercises on several cards: one loss out of several, and how many to rent."""

import math
from collections.abc import Callable

from course_utils.checks import Exercise, Wrong
from course_utils.exercises import returned

NAN = float("nan")


def _one_loss(answer: Callable[[list[tuple[float, int]]], float]) -> str:
    """[(mean loss, tokens) of each process] -> the mean loss of all tokens."""
    for parts in (
        [(2.0, 300), (4.0, 100)],
        [(1.0, 10), (1.0, 90), (3.0, 50)],
        [(5.0, 7)],
        [(3.0, 40), (NAN, 0)],
    ):
        asked, given = f"For {parts}", list(parts)
        found = returned.number_for(asked, answer(given))
        if given != parts:
            raise Wrong(f"{asked} it changes the list that it was given.")
        full = [(loss, tokens) for loss, tokens in parts if tokens]
        total = sum(loss * tokens for loss, tokens in full)
        wanted = total / sum(tokens for _, tokens in full)
        if math.isclose(found, wanted, rel_tol=1e-6):
            continue
        if math.isnan(found):
            raise Wrong(f"{asked} it gives nan: one process had no tokens, and its mean is 0 / 0.")
        for guess, what in (
            (sum(loss for loss, _ in full) / len(parts), "the mean of the means"),
            (total, "the sum over all tokens, not yet divided"),
            (total / len(parts), "the sum over all tokens, divided by the processes"),
            (sum(loss for loss, _ in full), "the sum of the means"),
        ):
            if math.isclose(found, guess, rel_tol=1e-6):
                raise Wrong(f"{asked} it gives {found:g}, {what}.")
        raise Wrong(f"{asked} it gives {found:g}. What would one process with all tokens say?")
    return "With that, one process or sixty-four give the same loss."


# reviews, reviews a second of one card, seconds until a card works, seconds until the deadline
FLEETS = (
    (1_000_000, 100, 1200, 3600),  # without the start 3, rounded down 4, rounded up 5
    (1_000_000, 125, 0, 8000),  # exactly one
    (1_000_000, 100, 600, 5600),  # exactly two
    (1_000_001, 100, 600, 5600),  # one review too many for two
    (1_000_000, 100, 600, 5599),
    (10, 100, 600, 3600),
    (10_000_000_000, 1000, 60, 10_060),
)


def _fewest_cards(answer: Callable[[int, float, float, float], int | None]) -> str:
    """(reviews, per second, start seconds, deadline seconds) -> the fewest cards, or None."""
    for reviews, rate, start, deadline in FLEETS:
        asked = (
            f"For {reviews:,} reviews at {rate} a second and card, {start} s of start and "
            f"{deadline:,} s in all"
        )
        said = answer(reviews, rate, start, deadline)
        if said is None:
            raise Wrong(f"{asked} it says that it cannot be done.")
        found = returned.number_for(asked, said)
        if found % 1 or found < 1:
            raise Wrong(f"{asked} it gives {found:g} cards. You can rent 1, 2, 3 and so on.")
        done = found * rate * (deadline - start)
        if done < reviews:
            late = found == math.ceil(reviews / (rate * deadline)) != reviews // (done / found)
            why = "nothing is done while the cards start" if late else "too few"
            raise Wrong(f"{asked} it gives {found:g}: they do {done:,.0f} in time, {why}.")
        if (found - 1) * rate * (deadline - start) >= reviews:
            raise Wrong(f"{asked} it gives {found:g}: one card fewer would do as well.")
    for start, deadline in ((600, 600), (600, 300)):
        said = answer(1000, 100, start, deadline)
        if said is not None:
            raise Wrong(
                f"With {start} s of start and {deadline} s in all it gives {said!r}. No card has "
                "begun by then: say None."
            )
    return "Each card pays for its own start, so more cards than that cost more, too."


EXERCISES = {
    "07.4": Exercise(
        "one loss out of several",
        _one_loss,
        (
            "Every token should count the same, in whichever process it was.",
            "Turn each mean back into a sum first. A process without tokens has nothing to add.",
            "sum(loss * n for loss, n in parts if n) / sum(n for loss, n in parts)",
        ),
    ),
    "07.5": Exercise(
        "how many cards",
        _fewest_cards,
        (
            "How many reviews does one card do between its start and the deadline?",
            "Divide, and round up: math.ceil. Before that: is there any time left at all?",
            "math.ceil(reviews / (per_second * (deadline - start))) where deadline > start",
        ),
    ),
}
