"""Turn volume, deadline and prices, and see which way of labelling is the cheapest in time.

What each way costs and how long it takes is worked out by the lesson's own function; this module
knows no price.
"""

import html
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from course_utils import plots, settings
from course_utils.errors import CourseError
from course_utils.explorers.controls import boxed, panel, slider
from course_utils.plots import Shown

Ways = Callable[[int, float, float], Mapping[str, tuple[float, float]]]
REVIEWS = tuple(n * 10**power for power in range(3, 9) for n in (1, 2, 5))
HOURS = (1, 2, 4, 8, 24, 48, 72, 168)
GPU_DOLLARS = (0.2, 0.44, 0.78, 1.5, 2.5, 5.0)
PEOPLE_DOLLARS = (0, 20, 40, 60, 80, 120)


def _bill(ways: Ways, reviews: int, deadline: float, gpu: float, people: float) -> Shown:
    """Bars of dollars, the cheapest way in time brought out; the text says who is too late."""
    found = dict(ways(reviews, gpu, people))
    if not found:
        raise CourseError("There is no way to compare.", "Your function gives an empty dict.", "")
    in_time = {name: cost for name, (cost, hours) in found.items() if hours <= deadline}
    best = min(in_time, key=lambda name: in_time[name], default="")
    named = {
        name: name if name in in_time else f"{name} (too late: {hours:,.0f} h)"
        for name, (_, hours) in found.items()
    }
    title = f"{reviews:,} reviews within {deadline:g} hours"
    chart = plots.bars(
        {named[name]: cost for name, (cost, _) in found.items()},
        title,
        unit="dollars",
        number="{:,.0f}",
        highlight=[best],
    )
    said = f"cheapest in time: {best}, ${in_time[best]:,.0f}" if best else "nothing is in time"
    last = f"a GPU at ${gpu:g} an hour, people at ${people:g} an hour: {said}"
    return Shown(f"{chart.text}\n{last}", png=chart.png, note=boxed(html.escape(last)))


def bill(
    ways: Ways,
    reviews: int = 1_000_000,
    deadline: float = 24,
    gpu_dollars: float = 0.78,
    people_dollars: float = 60,
) -> Any:
    """Turn how many reviews, until when and at which prices: which way is the cheapest in time?

    Args:
        ways: (reviews, dollars a GPU hour, dollars an hour of somebody's work) -> for each way by
            name its dollars and its hours.
        reviews: one of `REVIEWS`.
        deadline: hours, one of `HOURS`.
        gpu_dollars: one of `GPU_DOLLARS`.
        people_dollars: one of `PEOPLE_DOLLARS`.

    Returns:
        A widget; a `Shown` for the given values while a program runs the notebook.
    """
    if settings.static():
        return _bill(ways, reviews, deadline, gpu_dollars, people_dollars)
    controls = {
        "reviews": slider(REVIEWS, reviews, "reviews:"),
        "deadline": slider(HOURS, deadline, "within hours:"),
        "gpu": slider(GPU_DOLLARS, gpu_dollars, "$ a GPU hour:"),
        "people": slider(PEOPLE_DOLLARS, people_dollars, "$ a work hour:"),
    }
    return panel(partial(_bill, ways), controls)
