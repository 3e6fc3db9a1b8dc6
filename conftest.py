"""pytest for the whole repository: notebooks run in the pocket tier, quiet, offline, static."""

import os
import tomllib
from pathlib import Path

import pytest

from course_staff.notebooks import executing
from course_utils import machine, settings

SKIPS = Path(__file__).parent / "tests" / "skips.toml"
left_out: list[str] = []

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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The long notebooks first, so that no worker is left alone with one at the end.

    Lessons 06 and 07 train a real model and start a cluster: with the slow tests.
    """
    for item in items:
        if item.path.parent.name == "notebooks" and item.path.name[:2] in ("06", "07"):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: (item.path.suffix != ".ipynb", _later_first(item.path.name)))


def _later_first(name):
    """Lesson 05 before lesson 00: the later ones quantize and train. 0 for what is no lesson."""
    return -int(name[:2]) if name[:2].isdigit() else 0


def _note_skip(report):
    """Remember a test or file that is skipped for a reason that tests/skips.toml does not have."""
    if report.skipped and os.environ.get("COURSE_SKIPS") == "listed":
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(part in why for part in tomllib.loads(SKIPS.read_text(encoding="utf-8"))):
            left_out.append(f"LEFT OUT {report.nodeid}: {why}")


def pytest_runtest_logreport(report):
    """A test is over."""
    _note_skip(report)


def pytest_collectreport(report):
    """A file was read."""
    _note_skip(report)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """A test that was left out without a written reason is a failure where all are to run."""
    if left_out and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    """Name what was left out."""
    for line in left_out:
        terminalreporter.write_line(line, red=True)
