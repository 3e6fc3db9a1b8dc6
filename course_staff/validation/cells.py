"""One notebook, executed and compared by nbval: `python -m course_staff.validation.cells NOTEBOOK`.

The other half of `validate`, a process of its own for each notebook. It writes one JSON object a
line: `{"cell": id}` after each cell, then `{"result": {...}}`. What differs is
decided by nbval alone, with the same rules as `pytest --nbval` in the course's repository. It
knows nothing of cards, reports or of other notebooks.
"""

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any

import pytest

from course_staff.notebooks.executing import Peak

Json = dict[str, Any]
CELL_SECONDS = 600
OUTPUT_SECONDS = (
    60  # for outputs to arrive once a cell is done; nbval's 5 are few on a busy machine
)
NOT_COMPARED = ("image/png", "image/jpeg", "application/vnd.jupyter.widget-view+json")
ANSI = re.compile(r"\x1b\[[\d;]*m")


def report(line: Json) -> None:
    """One line for whoever started this process; pytest writes elsewhere."""
    print(json.dumps(line), file=sys.__stdout__, flush=True)


def as_text(outputs: Sequence[Any]) -> str:
    """A cell's outputs as the text to read and to compare by eye; stderr and pictures left out."""
    parts = []
    for output in outputs:
        if output.output_type == "stream":
            parts += [output.text] if output.name != "stderr" else []
        elif output.output_type == "error":
            parts.append(f"{output.ename}: {output.evalue}\n")
        else:
            for kind in output.data:
                if kind not in NOT_COMPARED:
                    head = "" if kind == "text/plain" else f"[{kind}]\n"
                    parts.append(f"{head}{_joined(output.data[kind])}\n")
    return "".join(part if part.endswith("\n") else f"{part}\n" for part in parts)


def _joined(value: Any) -> str:
    """A MIME bundle's value as text: a string, a list of lines, or JSON."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "".join(value)
    return value if isinstance(value, str) else json.dumps(value, indent=1)


def await_reply(kernel: Any, wait: Callable[..., None], msg_id: str, timeout: float) -> None:
    """Like nbval's own `wait`, which would wait for a dead kernel until the time is up.

    Raises:
        RuntimeError: the kernel has ended.
        Empty: no answer within `timeout` seconds.
    """
    end = time.monotonic() + timeout
    while True:
        try:
            return wait(msg_id, timeout=min(2, timeout))
        except Empty:
            if not kernel.is_alive():
                raise RuntimeError("The kernel has ended, perhaps for want of memory") from None
            if time.monotonic() > end:
                raise


class Watch:
    """The pytest plugin that leaves out stderr and notes what became of every cell."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.cells: list[Json] = []
        self.broken: list[str] = []
        self.stored = ""

    def pytest_collectstart(self, collector: Any) -> None:
        """As in the repository's conftest.py: progress bars and log lines are not compared."""
        if hasattr(collector, "skip_compare"):
            collector.skip_compare += ("stderr",)

    def pytest_collectreport(self, report: Any) -> None:
        """A file that is no notebook."""
        if report.failed:
            self.broken.append(str(report.longrepr).strip().splitlines()[-1])

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_setup(self, item: Any) -> None:
        """The kernel runs: have it watched while a cell is waited for."""
        self.stored = as_text(item.cell.outputs)  # now: nbval joins the outputs in place
        item.output_timeout = OUTPUT_SECONDS
        kernel = item.parent.kernel
        if kernel is not None and not isinstance(kernel.await_reply, partial):
            kernel.await_reply = partial(await_reply, kernel, kernel.await_reply)

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        """One phase of one cell is over."""
        if call.when == "setup" and call.excinfo:  # the kernel did not start
            self.broken.append(f"{call.excinfo.typename}: {call.excinfo.value}")
        if call.when != "call":
            return
        cell = item.cell
        outcome: Json = {"cell": cell.get("id") or cell.metadata.get("id") or str(item.cell_num)}
        fresh = item.test_outputs or []
        if call.excinfo is not None and call.excinfo.typename != "Skipped":
            outcome |= judged(item, self.stored, fresh, call.excinfo.value)
        self.cells.append(outcome)
        report({"cell": outcome["cell"]})


def judged(item: Any, stored: str, fresh: Sequence[Any], error: BaseException) -> Json:
    """What is wrong with a cell that nbval refused.

    Returns:
        `kind` ("stopped": it raises, and should not; "changed": it runs, and shows something
        else; "lost": the kernel died or did not answer), `says` (one line), `source`, `stored`
        and `fresh` (outputs as text), `traceback`.
    """
    ends = [output for output in fresh if output.output_type == "error"]
    expected = any(output.output_type == "error" for output in item.cell.outputs)
    says, traceback = str(error), ""
    if says == "Cell outputs differ":
        kind = "changed"
    elif ends and (not expected or "imeout" in says):
        kind, says = "stopped", f"{says}: {ends[-1].ename}: {ends[-1].evalue}"
        traceback = ANSI.sub("", "\n".join(ends[-1].traceback))
    else:
        kind = "changed" if fresh else "lost"
    return {
        "kind": kind,
        "says": says.partition("\n")[0],
        "source": item.cell.source,
        "stored": stored,
        "fresh": as_text(fresh),
        "traceback": traceback,
    }


def compare(path: Path, kernel: str | None) -> Json:
    """Execute every cell of a notebook in a fresh kernel and compare it with what is stored.

    Args:
        path: the notebook; its folder is the kernel's.
        kernel: a kernel's name; None for the running Python.

    Returns:
        `cells` (each with its id and, where nbval refused it, what `judged` returns), `broken`
        (what kept it from running at all), `seconds` (wall clock) and `peak_bytes` (resident
        memory of the kernel and all that it started).
    """
    watch = Watch()
    chosen = ["--nbval-kernel-name", kernel] if kernel else ["--nbval-current-env"]
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        redirect_stdout(sys.stderr),
        Peak() as peak,
    ):
        # an empty configuration: none that lies around the notebook may change the verdict
        settings = Path(folder, "pytest.ini")
        settings.write_text("[pytest]\n", encoding="utf-8")
        code = pytest.main(
            [str(path), "--nbval", *chosen, f"--nbval-cell-timeout={CELL_SECONDS}"]
            + ["-c", str(settings), "--rootdir", folder, "--noconftest"]
            + ["-p", "nbval.plugin", "-p", "no:cacheprovider", "--capture=no", "--color=no"],
            plugins=[watch],
        )
    fine = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
    if code not in fine and not watch.broken:
        watch.broken.append(f"pytest ended with {code!r}")
    return {
        "cells": watch.cells,
        "broken": watch.broken,
        "seconds": time.monotonic() - began,
        "peak_bytes": peak.bytes,
    }


def main(argv: Sequence[str]) -> None:
    """Compare one notebook: NOTEBOOK [KERNEL]."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.environ.pop("PYTEST_ADDOPTS", None)
    found = compare(Path(argv[0]), argv[1] if len(argv) > 1 else None)
    report({"result": found})


if __name__ == "__main__":
    main(sys.argv[1:])
