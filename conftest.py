"""pytest for the whole repository: notebooks run in the pocket tier, quiet, offline, static."""

import os

from course_utils import notebooks, settings

for name in notebooks.LEARNERS_OWN:
    os.environ.pop(name, None)
os.environ.update(notebooks.STATIC)
settings.prepare()


def pytest_collectstart(collector):
    """Leave stderr out of the comparison of notebook outputs: progress bars and log lines."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)
