"""A lesson's recorded run, taken from its executed notebook, for those without its model.

`notebooks run` writes it whenever it has executed a lesson whose card has no pocket row: for each
code cell that needs the model, what it gave; and where, when and with which versions that was. What
a learner gets to see of it is `course_utils.fetching.recorded`'s affair.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from course_staff.notebooks import store
from course_staff.recording import facts
from course_utils import data
from course_utils.fetching.recorded import digest

# These need no model: they run, whether a recording plays or not.
LIVE_TAGS, LIVE_STARTS = {"setup", "exercise"}, ("guess(", "quiz(")
# One finds the model; one asks a learner's own API, of which a recording knows nothing.
LIVE_CELLS = {"fetch", "large"}


def path_of(lesson: str) -> Path:
    """The recording of a lesson with this number."""
    return data.FOLDER / "recorded" / f"lesson_{lesson}.json"


def recorded_cells(notebook: Any) -> list[Any]:
    """The code cells that a recording holds."""
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code"
        and cell.id not in LIVE_CELLS
        and not LIVE_TAGS & set(cell.metadata.get("tags", []))
        and not cell.source.startswith(LIVE_STARTS)
    ]


def cells(notebook: Any) -> dict[str, Any]:
    """{digest: cell id and outputs} of an executed notebook; of streams the text alone."""
    found = {}
    for cell in recorded_cells(notebook):
        outputs = [
            {"text": one.text} if one.output_type == "stream" else {"data": dict(one.data)}
            for one in cell.outputs
        ]
        found[digest(cell.source)] = {"cell": cell.id, "outputs": outputs}
    return found


def write_all(paths: Iterable[Path]) -> None:
    """Write the recording of every lesson among these that needs another model than Pocket Llama.

    They were just executed on this machine.
    """
    for path in paths:
        course = store.read(path).metadata.get("course")
        if course and "pocket" not in course:
            write(store.read(path))


def write(notebook: Any) -> Path:
    """Write the recording of a lesson that was just executed on this machine."""
    run = {
        "made_by": "course_staff.recording.lesson",
        "command": "python -m course_staff notebooks run",
        "date": datetime.now(UTC).date().isoformat(),
        "device": facts.device(),
        "versions": facts.versions(),
        "cells": cells(notebook),
    }
    path = path_of(notebook.metadata["course"]["lesson"])
    store.put({path: json.dumps(run, indent=1, ensure_ascii=False) + "\n"})
    return path
