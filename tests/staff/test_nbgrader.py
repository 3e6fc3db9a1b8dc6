"""The lessons as nbgrader's assignments: its metadata, and test cells that grade."""

import nbformat
import pytest

from course_staff.__main__ import main
from course_staff.collecting import nbgrader
from course_staff.notebooks import store as notebooks
from course_utils import checks


@pytest.mark.parametrize("path", notebooks.lessons(), ids=notebooks.key)
def test_every_exercise_has_a_test_behind_it(path):
    """An instructor with nbgrader: a point for each exercise, its starter kept, its test locked."""
    cells = nbgrader.assignment(path).cells
    tests = [i for i, cell in enumerate(cells) if "nbgrader" in cell.metadata]
    keys = checks.lesson(path.name[:2]).EXERCISES
    assert [cells[i].id for i in tests] == [f"exercise-{key.replace('.', '-')}" for key in keys]
    for i, key in zip(tests, keys, strict=True):
        assert cells[i].metadata["nbgrader"]["locked"] and repr(key) in cells[i].source
        assert "..." in cells[i - 1].source and f'check("{key}"' in cells[i - 1].source


def test_a_test_cell_gives_the_point_and_takes_it(tmp_path, capsys):
    """An instructor whose class is graded by nbgrader: right passes, wrong and untouched do not."""
    assert main(["publish", "nbgrader", str(tmp_path)]) == 0
    (page,) = tmp_path.glob("source/00_*/*.ipynb")
    assert str(page) in capsys.readouterr().out
    notebook = nbformat.read(page, as_version=4)
    nbformat.validate(notebook)
    test = next(c for c in notebook.cells if c.id == "exercise-00-2").source
    right = [
        {"role": "system", "content": "Answer with one word."},
        {"role": "user", "content": "Nice staff."},
    ]
    exec(test, {"my_messages": right})
    for wrong in (..., right[1:]):
        with pytest.raises(AssertionError, match="not"):
            exec(test, {"my_messages": wrong})
