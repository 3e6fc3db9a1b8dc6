"""The lessons as nbgrader's assignments: its metadata, and test cells that grade."""

import nbformat
import pytest

from course_staff.__main__ import main
from course_staff.collecting import nbgrader
from course_staff.notebooks import store as notebooks
from course_utils import checks


@pytest.mark.parametrize("path", notebooks.lessons(), ids=notebooks.key)
def test_every_exercise_is_an_answer_and_a_test(path):
    """An instructor with nbgrader finds each exercise once, and no learner can edit its test."""
    cells = [c for c in nbgrader.assignment(path).cells if "nbgrader" in c.metadata]
    answers = [c.metadata["nbgrader"] for c in cells if c.metadata["nbgrader"]["solution"]]
    tests = [c for c in cells if c.metadata["nbgrader"]["grade"]]
    number = path.name[:2]
    wanted = [f"exercise-{key.replace('.', '-')}" for key in checks.lesson(number).EXERCISES]
    assert [one["grade_id"] for one in answers] == wanted
    assert [c.metadata["nbgrader"]["grade_id"] for c in tests] == [f"{w}-test" for w in wanted]
    assert all(c.metadata["nbgrader"]["locked"] and c.source for c in tests)


def test_a_test_cell_gives_the_point_and_takes_it(tmp_path, capsys):
    """An instructor whose class is graded by nbgrader: right passes, wrong and untouched do not."""
    assert main(["publish", "nbgrader", str(tmp_path)]) == 0
    (page,) = tmp_path.glob("source/00_*/*.ipynb")
    assert str(page) in capsys.readouterr().out
    notebook = nbformat.read(page, as_version=4)
    nbformat.validate(notebook)
    test = next(c for c in notebook.cells if c.id == "exercise-00-2-test").source
    right = [
        {"role": "system", "content": "Answer with one word."},
        {"role": "user", "content": "Nice staff."},
    ]
    exec(test, {"my_messages": right})
    for wrong in (..., right[1:]):
        with pytest.raises(AssertionError, match="not"):
            exec(test, {"my_messages": wrong})
