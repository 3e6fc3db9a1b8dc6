"""All lessons and solutions on a real model: whether they come to their end and score something.

    python -m course_staff real [NOTEBOOK…] [--cards]

Pocket Llama answers as it was taught to; a general model answers as it likes. So each notebook runs
from top to bottom with SmolLM2 (`python -m course_utils get smollm2` fetches it), nothing is
compared and nothing is stored, but no cell may fail and at least 95 % of the replies that a score
counts must hold a label. `--cards` writes what was measured as the card's row of the small tier.
"""

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_staff.notebooks import cards, executing, keeping, store
from course_utils import models, settings
from course_utils.errors import CourseError

PARSED = 0.95
MINUTES = 10.0  # on two cores
# how a `sentiment.Score` writes itself
SCORE = re.compile(r"accuracy [\d.]+ \(\d+ of (\d+);[^)]*\)(?:, (\d+) unparsed)?")


@dataclass
class Run:
    """One notebook on the small model; `scores` holds (cell, replies, how many held a label)."""

    name: str
    minutes: float = 0.0
    peak_bytes: int = 0
    scores: list[tuple[str, int, int]] = field(default_factory=list)
    error: str = ""

    @property
    def faults(self) -> list[str]:
        """What must not be: a failed cell, or a score of which too little could be read."""
        poor = [
            f"cell {cell}: {parsed} of {total} replies held a label"
            for cell, total, parsed in self.scores
            if parsed < PARSED * total
        ]
        return ([self.error] if self.error else []) + poor

    def __str__(self) -> str:
        """A line of figures, and a line for each fault."""
        replies = sum(total for _, total, _ in self.scores)
        parsed = sum(parsed for _, _, parsed in self.scores)
        said = f"{parsed} of {replies} scored replies held a label" if replies else "no score"
        over = f" (more than {MINUTES:g})" if self.minutes > MINUTES else ""
        head = (
            f"{self.name}: {self.minutes:.1f} min{over}, {self.peak_bytes / 2**30:.2f} GiB, {said}"
        )
        return "\n".join([head, *(f"  ! {fault}" for fault in self.faults)])


def scores(notebook: Any) -> list[tuple[str, int, int]]:
    """(cell, replies, replies with a label) of every score that an executed notebook shows."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            for total, unparsed in SCORE.findall(text):
                found.append((cell.id, int(total), int(total) - int(unparsed or 0)))
    return found


def _said(cell: str, error: Exception) -> str:
    """What went wrong in a cell: its own error, its time, or the end of the kernel.

    A kernel that is ended from outside raises one of several errors, some without a word.
    """
    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    if isinstance(error, CellExecutionError):
        return f"cell {cell}: {error.ename}: {error.evalue}"[:800]
    if isinstance(error, CellTimeoutError):
        return f"cell {cell}: it took longer than {executing.CELL_SECONDS} s"
    return (
        f"cell {cell}: the kernel was killed, by the system for want of memory or by who stopped "
        f"the run ({type(error).__name__})"
    )


def run_one(path: Path) -> Run:
    """Run one notebook on the small model in a fresh kernel; what is stored stays as it is."""
    notebook = store.read(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []  # what is stored was not seen in this run
    run = Run(path.stem if path.parent == store.FOLDER else f"{path.parent.name}/{path.stem}")
    at, began = ["before the first"], time.monotonic()
    with executing.as_a_program(), executing.Peak() as peak:
        os.environ["COURSE_MODEL"] = settings.SMALL
        told: Any = {"on_cell_execute": lambda cell, cell_index: at.append(cell.id)}
        try:
            executing.client(path, notebook, **told).execute()
        except Exception as error:  # a failed cell, one that did not end, a dead kernel
            run.error = _said(at[-1], error)
    run.minutes, run.peak_bytes = (time.monotonic() - began) / 60, peak.bytes
    run.scores = scores(notebook)
    return run


def update_card(path: Path, run: Run) -> None:
    """Write what was measured into the lesson's metadata and its card; a solution has none."""
    notebook = store.read(path)
    course = notebook.metadata.get("course")
    if not course or run.error:
        return
    row = course.setdefault("small", {})
    row |= {"runs_on": "2 CPU cores", "download": "93 to 270 MB, once"}
    row |= {"dollars": "$0", "gated": False}
    row["run_minutes"] = cards.settled(row.get("run_minutes"), run.minutes, 0.5)
    row["memory_gib"] = cards.settled(row.get("memory_gib"), run.peak_bytes / 2**30, 0.5)
    store.write(notebook, path)
    keeping.write_cards([path])


def main(paths: Sequence[Path], write_cards: bool = False) -> int:
    """Run the notebooks, all by default, and print their figures; 1 where one has a fault.

    Raises:
        CourseError: the small model is not on this machine.
    """
    if models.is_here(settings.SMALL) is None:
        raise CourseError("SmolLM2 is not on this machine yet.", "", f"{models.GET_SMALL}.")
    faults = 0
    for path in paths or store.every():
        run = run_one(path.resolve())
        print(run, flush=True)
        faults += len(run.faults)
        if write_cards:
            update_card(path.resolve(), run)
    return int(bool(faults))
