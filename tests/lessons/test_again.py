"""Lessons run back and forth."""

import again
import pytest

from course_staff.notebooks import store as notebooks


@pytest.mark.slow
@pytest.mark.parametrize("path", notebooks.lessons(), ids=notebooks.key)
def test_every_cell_can_be_run_again(path):
    """A learner who runs a cell twice, or goes back to a section, meets no error and no lie."""
    assert again.faults(path) == []
