"""pytest for the whole repository: notebooks run in the pocket tier, quiet, offline, static."""

import os

from course_staff.notebooks import executing
from course_utils import machine, settings

for name in executing.LEARNERS_OWN:
    os.environ.pop(name, None)
os.environ.update(executing.STATIC)
for name, value in executing.SHARING.items():
    os.environ.setdefault(name, value)  # before torch loads
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    # more threads than cores would spend their time waiting for each other
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, machine.cores() // workers)))
settings.prepare()


def pytest_collectstart(collector):
    """Leave stderr out of the comparison of notebook outputs: progress bars and log lines."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)


def pytest_collection_modifyitems(items):
    """The long notebooks first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: (item.path.suffix != ".ipynb", _later_first(item.path.name)))


def _later_first(name):
    """Lesson 05 before lesson 00: the later ones quantize and train. 0 for what is no lesson."""
    return -int(name[:2]) if name[:2].isdigit() else 0
