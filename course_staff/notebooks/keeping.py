"""Keeping what is stored in the notebooks clean and true.

    python -m course_staff notebooks run [NOTEBOOK…]    execute, store outputs, measure the cards
    python -m course_staff notebooks cards [NOTEBOOK…]  without executing: write badges, setup cells,
                                                        cards and the README's table, and leave no
                                                        trace of an editor

`make notebooks` does both. Outputs are only ever written by execution.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from course_staff.notebooks import cards, cleaning, executing, shared, store
from course_utils.errors import CourseError


def update_card(notebook: Any, seconds: float, peak: int) -> None:
    """Put measured run time (minutes) and memory (GiB) into the metadata, rounded up."""
    course = notebook.metadata.get("course")
    if not course:
        return
    row = cards.first(course)
    row["run_minutes"] = cards.settled(row.get("run_minutes"), seconds / 60, 0.5)
    row["memory_gib"] = cards.settled(row.get("memory_gib"), peak / 2**30, 0.5)


def run_one(path: Path) -> str:
    """Execute and store one notebook; returns what to say of it.

    Raises:
        CourseError: it does not run to its end, or cannot be read or written; then the stored file
            is as it was.
    """
    name = store.key(path)
    notebook = store.read(path)
    # before the minutes of running: whether it can be written at all
    store.put({path: path.read_text(encoding="utf-8")})
    shared.render(notebook, name)
    seconds, peak = executing.execute(path, notebook)
    cleaning.clean(notebook)
    update_card(notebook, seconds, peak)
    shared.render(notebook, name)
    store.write(notebook, path)
    return f"{path.name}: {seconds:.0f} s, peak {peak / 2**30:.2f} GiB"


def run(paths: Sequence[Path]) -> int:
    """Execute and store each notebook; one that fails stops no other. Returns how many failed."""
    from tqdm.auto import tqdm

    failed = 0
    for path in (bar := tqdm(paths, unit="notebook")):
        bar.set_postfix_str(path.name)
        try:
            tqdm.write(run_one(path))
        except CourseError as error:
            failed += 1
            tqdm.write(str(error))
    return failed


def write_cards(paths: Sequence[Path]) -> int:
    """Write badge, card and setup cell into each notebook and clean it; nothing runs. Returns 0.

    Raises:
        CourseError: one cannot be read or written.
    """
    for path in paths:
        notebook = store.read(path)
        cleaning.clean(notebook)
        shared.render(notebook, store.key(path))
        store.write(notebook, path)
    return 0
