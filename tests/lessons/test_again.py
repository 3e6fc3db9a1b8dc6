"""Lessons run back and forth."""

import again
import pytest

from course_staff.notebooks import store as notebooks

# Lessons 05 and 06 train for minutes each time, and lesson 07 starts Ray a dozen times: over a
# quarter of an hour each, by hand with `python -m tests.lessons.again notebooks/05_….ipynb`.
LESSONS = [path for path in notebooks.lessons() if not path.name.startswith(("05", "06", "07"))]


@pytest.mark.slow
@pytest.mark.parametrize("path", LESSONS, ids=notebooks.key)
def test_every_cell_can_be_run_again(path):
    """A learner who runs a cell twice, or goes back to a section, meets no error and no lie."""
    assert again.faults(path) == []
