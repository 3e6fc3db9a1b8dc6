"""Where the notebooks are, and reading and writing them; it knows nothing of what stands in them.

Whatever staff's commands store goes through `put`: a file is the old one or the new one, never a
part of either, whether the disk is full or somebody pulls the plug.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from course_utils.errors import FULL, CourseError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
LESSONS = ROOT / "course_utils" / "data" / "lessons.json"


def lessons() -> list[Path]:
    """The lessons in reading order."""
    return sorted(FOLDER.glob("[0-9]*.ipynb"))


def every() -> list[Path]:
    """The lessons and their solutions."""
    return lessons() + sorted((FOLDER / "solutions").glob("[0-9]*.ipynb"))


def key(path: Path) -> str:
    """A notebook's name among the notebooks: "02_local_llama", "solutions/02_local_llama".

    Raises:
        CourseError: it is none of the course's.
    """
    try:
        return path.resolve().relative_to(FOLDER.resolve()).with_suffix("").as_posix()
    except ValueError:
        raise CourseError(
            f"{path.name} is not in the course's notebooks/.",
            "Badges and cards are for the course's own notebooks.",
            "Move it there, or use `python -m course_staff validate`, which takes any notebook.",
        ) from None


def read(path: Path) -> Any:
    """A notebook as an nbformat object, whoever wrote it: every cell has an id.

    Colab writes an older format, in which a cell's id is in its metadata and may be missing.

    Raises:
        CourseError: the file is no notebook.
    """
    import nbformat

    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # whatever nbformat says of half a file
        raise CourseError(
            f"{path.name} cannot be read as a notebook.",
            f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}",
            "Open it in JupyterLab, or restore it: git checkout FILE.",
        ) from None
    taken = {cell.get("id") for cell in notebook.cells}
    for n, cell in enumerate(notebook.cells, 1):
        if not cell.get("id"):
            own = str(cell.metadata.get("id", ""))
            usable = re.fullmatch(r"[\w-]{1,64}", own, re.A) and own not in taken
            cell["id"] = own if usable else f"number-{n}"
            taken.add(cell["id"])
    notebook.nbformat_minor = max(5, notebook.nbformat_minor)
    return notebook


def write(notebook: Any, path: Path) -> None:
    """Write a notebook whole or not at all.

    Raises:
        CourseError: as `put`.
    """
    import nbformat

    put({path: nbformat.writes(notebook).rstrip("\n") + "\n"})


def put(texts: Mapping[Path, str]) -> None:
    """Write files, all of them or none, each whole; what fails leaves no trace.

    Args:
        texts: {where: what}. They take their places in this order.

    Raises:
        CourseError: the disk is full, or the folder cannot be written to.
    """
    fresh = {path: path.with_name(f".{path.name}.new") for path in texts}
    try:
        for path, new in fresh.items():
            new.write_text(texts[path], encoding="utf-8", newline="\n")
        for path, new in fresh.items():
            new.replace(path)
    except OSError as error:
        why = str(error.strerror or error)
        full = FULL.search(why)
        raise CourseError(
            f"{path.name} cannot be written.",
            why + ".",
            "Make room on the disk, then run it again."
            if full
            else "Look at the folder's owner and permissions: it has to be yours to write to.",
        ) from None
    finally:
        for new in fresh.values():
            try:
                new.unlink(missing_ok=True)
            except OSError:  # its folder is no folder
                pass


def cell_by_id(notebook: Any, cell_id: str) -> Any:
    """The cell with this id, or None."""
    return next((cell for cell in notebook.cells if cell.get("id") == cell_id), None)
