"""The lessons on a real model: what counts as a fault is found in what the notebooks show."""

from pathlib import Path

import nbformat
import pytest

from course_staff import real
from course_staff.notebooks import cards, store
from course_utils import models, settings
from course_utils.errors import CourseError
from course_utils.sentiment import UNPARSED, Score


def shown(score: Score) -> list[dict]:
    """A score as a notebook stores it: printed, or as the value of a cell."""
    data = {"text/plain": repr(score)}
    value = nbformat.v4.new_output("execute_result", data=data, execution_count=1)
    return [nbformat.v4.new_output("stream", text=f"before: {score}\n"), value]


def score(right: int, unparsed: int, total: int) -> Score:
    given = ["Positive"] * right + [UNPARSED] * unparsed
    given += ["Negative"] * (total - len(given))
    return Score([("text", "Positive", label, label) for label in given])


@pytest.mark.parametrize(("unparsed", "faults"), [(0, 0), (10, 0), (11, 1), (196, 1)])
def test_scores_that_mean_nothing_are_faults(unparsed, faults):
    """A maintainer learns that a lesson runs without error on a real model and teaches nothing."""
    cell = nbformat.v4.new_code_cell("score", id="score", outputs=shown(score(2, unparsed, 200)))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("text"), cell])
    run = real.Run("02", scores=real.scores(notebook))
    assert run.scores == [("score", 200, 200 - unparsed)] * 2
    assert len(run.faults) == 2 * faults
    assert f"{400 - 2 * unparsed} of 400 scored replies" in str(run)


def test_a_failed_cell_is_a_fault():
    """A maintainer sees the cell's own error."""
    assert real.Run("04", error="CellExecutionError: Group size 128").faults


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the kernel was killed"),
        ("raise ValueError('no room')", "ValueError: no room"),
    ],
)
def test_how_a_notebook_ended(tmp_path, code, words):
    """A maintainer reads a killed kernel's end in plain words, and nothing that was stored."""
    cells = [("first", "1 + 1"), ("second", code), ("third", "2 + 2")]
    stored = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(code, id=name) for name, code in cells]
    )
    stored.cells[2].outputs = shown(score(1, 9, 10))
    stored.cells[2].execution_count = 7
    path = tmp_path / "short.ipynb"
    nbformat.write(stored, path)
    before = path.read_bytes()
    run = real.run_one(path)
    assert run.error.startswith(f"cell second: {words}") and run.scores == []
    assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("lesson", ["00", "02", "03"])
def test_the_lessons_on_a_real_model(lesson):
    """A learner who sets COURSE_MODEL=smollm2 gets to the end, and replies that hold a label."""
    if models.is_here(settings.SMALL) is None:
        pytest.skip("SmolLM2 is not on this machine: make small fetches it")
    (path,) = store.FOLDER.glob(f"{lesson}_*.ipynb")
    run = real.run_one(path)
    assert not run.faults, str(run)
    assert run.scores or lesson != "02", "the lesson shows no score any more"


def test_without_the_model_one_is_told_how_to_get_it(monkeypatch):
    """A maintainer on a fresh machine reads the command that fetches the model."""
    monkeypatch.setattr(models, "is_here", lambda name: None)
    with pytest.raises(CourseError) as caught:
        real.main([])
    assert "get smollm2" in caught.value.next_step


def test_the_card_has_a_row_for_every_tier_measured():
    """A learner sees what each tier costs, in the order of their size."""
    row = {"runs_on": "2 CPU cores", "run_minutes": 1, "memory_gib": 1, "download": "nothing"}
    row |= {"dollars": "$0", "gated": False}
    course = {"minutes": 60, "full": row, "small": {**row, "note": "$1"}, "pocket": row}
    rows = [line for line in cards.markdown(course).splitlines() if line.startswith("| **")]
    assert [line.split("**")[1] for line in rows] == ["pocket", "small", "full"]
    assert cards.markdown(course).endswith("*\\$1*")
    del course["small"]
    assert "small" not in cards.markdown(course)


def test_a_lesson_without_a_pocket_row_is_told_by_its_first_row():
    """A learner who plans: lesson 06's minutes and download are those of the model it fetches."""
    row = {"runs_on": "2 CPU cores", "run_minutes": 9, "memory_gib": 3, "download": "93 MB"}
    row |= {"dollars": "$0", "gated": False}
    course = {"lesson": "06", "title": "T", "about": "a", "minutes": 75}
    course |= {"small": row, "full": {**row, "run_minutes": 60}}
    assert cards.first(course) is row and cards.first({}) == {}
    (line,) = cards.readme_table([(Path("06_t.ipynb"), course)]).splitlines()[2:]
    assert "9 min | 3 GiB | 93 MB" in line
    rows = [line for line in cards.markdown(course).splitlines() if line.startswith("| **")]
    assert [line.split("**")[1] for line in rows] == ["small", "full"]
