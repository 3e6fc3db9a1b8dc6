"""`python -m course_utils submit`: one file with the learner's notebooks, to be handed in.

Code and text only: outputs can hold what nobody meant to hand in. It judges nothing; that is done
by `python -m course_staff collect`.
"""

import getpass
import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from course_utils import machine
from course_utils.errors import CourseError
from course_utils.records import kept

PROGRESS = "progress.json"
EXERCISE = re.compile(r"\bcheck\(\s*[\"']\d\d\.\d+[\"']")
SECRET = re.compile(r"\b(?:sk-[\w-]{20,}|hf_[A-Za-z0-9]{20,})")


def lessons() -> list[Path]:
    """The lessons in this folder, or in its folder `notebooks`; not the solutions."""
    here = machine.here()
    places = [place for place in (here, here / "notebooks") if any(place.glob("[0-9]*.ipynb"))]
    return sorted(places[0].glob("[0-9]*.ipynb")) if places else []


def _bare(path: Path) -> str | None:
    """A notebook's text without outputs; None where it has no exercise.

    Raises:
        CourseError: it is no notebook, or a key stands in it.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        cells = [_cell(cell) for cell in found["cells"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CourseError(
            f"{path.name} cannot be read as a notebook.",
            f"{type(error).__name__}: {str(error)[:200]}",
            "Open it in JupyterLab and save it, or name the right file.",
        ) from None
    sources = [cell["source"] for cell in cells]
    if any(map(SECRET.search, sources)):
        raise CourseError(
            f"A key stands in {path.name}.",
            "Whoever reads the file could use it.",
            "Take it out of the cell (see Settings in the README for where it belongs), save, "
            "and run this again.",
        )
    if not any(map(EXERCISE.search, sources)):
        return None
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4})


def _cell(cell: Any) -> dict[str, Any]:
    """A cell's kind and source."""
    source = cell.get("source", "")
    found: dict[str, Any] = {
        "cell_type": str(cell["cell_type"]),
        "metadata": {},
        "source": "".join(source),
    }
    if found["cell_type"] == "code":
        found |= {"execution_count": None, "outputs": []}
    return found


def pack(notebooks: Sequence[Path] = (), name: str | None = None) -> tuple[Path, list[str]]:
    """Write the file to hand in, into this folder; returns (where, the notebooks in it).

    Args:
        notebooks: by default all the lessons here.
        name: the learner's; by default the account's.

    Raises:
        CourseError: there is nothing to hand in, a notebook is none or holds a key, or the file
            cannot be written.
    """
    texts = {path.name: _bare(path) for path in notebooks or lessons()}
    found = {file: text for file, text in texts.items() if text is not None}
    if not found:
        raise CourseError(
            "There is nothing to hand in here.",
            "No notebook with exercises stands in this folder or in its folder notebooks.",
            "Change to the course's folder, or name your notebooks after the command.",
        )
    try:
        known = name or getpass.getuser()
    except (OSError, KeyError, ImportError):  # an account without a name, as in some containers
        known = ""
    plain = re.sub(r"[^\w.-]+", "-", known).strip("-.")
    if not plain:
        raise CourseError("Your name is missing.", "", 'Add it: submit --name "Ada Lovelace"')
    path = machine.here() / f"open-llms-{plain}.zip"
    found[PROGRESS] = json.dumps(kept.read())
    try:
        with machine.whole(path) as new, zipfile.ZipFile(new, "w") as file:
            for member, text in found.items():
                file.writestr(zipfile.ZipInfo(member), text, zipfile.ZIP_DEFLATED)
    except OSError as error:
        raise CourseError(
            f"{path.name} cannot be written.", f"{error.strerror}.", "Make room, or go elsewhere."
        ) from None
    return path, sorted(set(found) - {PROGRESS})
