"""The explorer of the bill: what it shows, and what it does with odd answers."""

import pytest

from course_utils import explorers
from course_utils.errors import CourseError


def ways(reviews, gpu, people):
    """Three ways of somebody's own."""
    return {
        "slow": (reviews / 1000 + people, 100.0),
        "quick": (reviews / 500 + 2 * people, 1.0),
        "<b>cards</b>": (gpu * 10, 24.0),
    }


@pytest.fixture
def live(monkeypatch):
    """A notebook that a person is looking at: widgets, no static pictures."""
    monkeypatch.setenv("COURSE_STATIC", "0")


def last(**given):
    """The line with the answer."""
    return explorers.bill(ways, **given).text.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ({"reviews": 1000, "people_dollars": 0}, "cheapest in time: quick, $2"),
        ({"reviews": 1000, "people_dollars": 0, "deadline": 168}, "cheapest in time: slow, $1"),
        ({"reviews": 10**8, "gpu_dollars": 5.0}, "cheapest in time: <b>cards</b>, $50"),
        ({"reviews": 10**8, "deadline": 8}, "cheapest in time: quick, $200,120"),
    ],
)
def test_the_cheapest_way_in_time_is_named(monkeypatch, given, answer):
    """A learner who has to decide: what is too late is not offered, however cheap."""
    monkeypatch.setenv("COURSE_STATIC", "1")
    assert last(**given).endswith(answer)


def test_who_is_too_late_is_said(monkeypatch):
    """A learner who sees a short bar that is not recommended reads why."""
    monkeypatch.setenv("COURSE_STATIC", "1")
    text = explorers.bill(ways, deadline=8).text
    assert "slow (too late: 100 h)" in text and "quick (too late" not in text
    never = explorers.bill(lambda *_: {"never": (1.0, 1e6)}, deadline=1).text
    assert "nothing is in time" in never


def test_a_function_that_gives_nothing_is_told(monkeypatch):
    """A learner who changes the lesson's function and forgets the return values."""
    monkeypatch.setenv("COURSE_STATIC", "1")
    with pytest.raises(CourseError, match="no way"):
        explorers.bill(lambda *_: {})


def test_sliders_ask_the_lessons_function_again(live):
    """A learner who turns a slider sees the bill of that moment, and markup stays text."""
    box = explorers.bill(ways)
    reviews, hours, _, people, result = box.children
    assert "quick" in result.value or "cards" in result.value
    hours.value, reviews.value, people.value = 1, 1000, 0
    assert "cheapest in time: quick, $2" in result.value
    hours.value, reviews.value = 24, 100_000_000
    assert "<b>cards" not in result.value and "&lt;b&gt;cards" in result.value


def test_a_function_that_gives_nothing_is_told_in_the_widget_too(live):
    """A learner at the sliders reads what is wrong where the picture would be."""
    assert "There is no way to compare." in explorers.bill(lambda *_: {}).children[-1].value
