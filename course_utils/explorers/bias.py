"""Move the line between two labels over the histogram of a model's log-odds."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from course_utils import plots, settings
from course_utils.errors import CourseError
from course_utils.explorers.controls import panel, slider
from course_utils.plots import Shown

BINS, STEPS = 24, 60


def _drawn(odds: Sequence[float], labels: Sequence[str], line: float) -> Shown:
    """The histogram in the two labels' colours, the line, and how many are right with it."""
    import numpy as np

    above, below = "Positive", "Negative"
    edges = np.linspace(min([*odds, line]), max([*odds, line]), BINS + 1)
    parts = {
        name: [one for one, label in zip(odds, labels, strict=True) if label == name]
        for name in (above, below)
    }
    right = sum(one > line for one in parts[above]) + sum(one <= line for one in parts[below])
    said = sum(one > line for one in odds)
    title = f"Line at {line:.1f}: {right} of {len(odds)} right, {said} called {above}"
    with plots.canvas() as (figure, axes):
        for name, colour in zip(parts, (plots.PALETTE[0], plots.PALETTE[1]), strict=True):
            axes.hist(parts[name], edges, alpha=0.6, color=colour, label=f"truly {name}")
        axes.axvline(line, color=plots.INK, linestyle="--")
        axes.set(title=title, xlabel=f"log-odds: how far {above} is ahead", ylabel="reviews")
        figure.legend(loc="outside right upper")
        png = plots.as_png(figure)
    rows = [[name, f"{np.median(part):.1f}" if part else "-"] for name, part in parts.items()]
    return Shown(f"{title}\n{plots.as_text(['truly', 'median log-odds'], rows)}", png=png)


def bias(odds: Sequence[float], labels: Sequence[str], line: float = 0.0) -> Any:
    """Move the line and see how many reviews are labelled right.

    Args:
        odds: the logit of Positive less that of Negative, for each review.
        labels: the true labels, "Positive" or "Negative".
        line: where it stands at first; above it a review is called Positive.

    Returns:
        A widget; a `Shown` with the line as given while a program runs the notebook.

    Raises:
        CourseError: no reviews, not as many labels as log-odds, or a label of another name.
    """
    if not len(odds) or len(odds) != len(labels) or set(labels) - {"Positive", "Negative"}:
        raise CourseError(
            f"{len(odds)} log-odds and {len(labels)} labels do not go together.",
            "Each review has one number and one of the labels Positive and Negative.",
            "Pass explorers.bias(odds[chosen], [label for _, label in exam]).",
        )
    if settings.static():
        return _drawn(odds, labels, line)
    low, high = min([*odds, line]), max([*odds, line])
    places = sorted(
        {round(low + step * (high - low) / STEPS, 2) for step in range(STEPS + 1)} | {line}
    )
    return panel(partial(_drawn, odds, labels), {"line": slider(places, line, "line")})
