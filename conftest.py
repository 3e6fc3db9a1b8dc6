"""pytest for the whole repository: notebooks run in the pocket tier, quiet, offline, static."""

import os

from course_utils import machine, notebooks, settings

for name in notebooks.LEARNERS_OWN:
    os.environ.pop(name, None)
os.environ.update(notebooks.STATIC)
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    # more threads than cores would spend their time waiting for each other
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, machine.cores() // workers)))
settings.prepare()


def pytest_collectstart(collector):
    """Leave stderr out of the comparison of notebook outputs: progress bars and log lines."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)
