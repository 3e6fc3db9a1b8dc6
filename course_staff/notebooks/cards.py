"""The card on top of every lesson: what it costs to run, per tier.

A notebook's metadata (`course`) is the one home; the card in the notebook and the table in the
README are written from it by `python -m course_staff notebooks cards`.
"""

import math
from pathlib import Path
from typing import Any

Json = dict[str, Any]
TIERS = ("pocket", "small", "full")  # the rows of a card; a lesson runs in the first that it has
BEGIN, END = "<!-- lessons: begin -->", "<!-- lessons: end -->"


def rounded_up(value: float, step: float) -> float:
    """`value` rounded up to a multiple of `step`."""
    return math.ceil(value / step - 1e-9) * step


def settled(old: float | None, measured: float, step: float) -> float:
    """What the card says of a measured value: the old figure while it is true, else a new one.

    The old figure is true while it is not exceeded and not more than three steps too high, so
    that measuring again does not change a card without need.
    """
    fresh = rounded_up(measured, step)
    return old if old is not None and fresh <= old <= fresh + 3 * step else fresh


def first(course: Json) -> Json:
    """The row of the tier that a lesson runs in with nothing set; empty where it has no row."""
    return next((course[tier] for tier in TIERS if tier in course), {})


def _no_math(text: str) -> str:
    """Text whose dollar signs stay: JupyterLab sets what stands between two as a formula."""
    return text.replace("$", r"\$")


def _tier_row(name: str, tier: Json) -> str:
    """One row of the card's table."""
    cells = [
        f"**{name}**",
        tier["runs_on"],
        f"{tier['run_minutes']:g} min",
        f"{tier['memory_gib']:g} GiB {tier.get('memory_kind', 'RAM')}",
        tier["download"],
        _no_math(tier["dollars"]),
        "yes" if tier["gated"] else "no",
    ]
    return "| " + " | ".join(cells) + " |"


def markdown(course: Json) -> str:
    """The card as it stands on top of a notebook."""
    head = f"**About {course['minutes']} minutes to work through.**"
    lines = [
        head,
        "",
        "| tier | runs on | run time | peak memory | download | cost | gated |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(_tier_row(tier, course[tier]) for tier in TIERS if tier in course),
    ]
    for tier in TIERS:
        if note := course.get(tier, {}).get("note"):
            lines += ["", f"*{_no_math(note)}*"]
    return "\n".join(lines)


def readme_table(lessons: list[tuple[Path, Json]]) -> str:
    """The README's table of lessons."""
    lines = [
        "| lesson | what you do | work | runs in | memory | download |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for path, course in lessons:
        row = first(course)
        lines.append(
            f"| [{course['lesson']} {course['title']}](notebooks/{path.name}) | {course['about']} "
            f"| {course['minutes']} min | {row['run_minutes']:g} min "
            f"| {row['memory_gib']:g} GiB | {row['download']} |"
        )
    return "\n".join(lines)
