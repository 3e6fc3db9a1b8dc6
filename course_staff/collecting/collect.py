"""`python -m course_staff collect FOLDER`: one table of who solved which exercise.

It takes notebooks under any name, and what `python -m course_utils submit` packed. Who a learner is
follows from the file's place and name alone, never from what stands in the file.
"""

import argparse
import csv
import html
import io
import json
import multiprocessing
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from course_staff.collecting import running, sandbox
from course_staff.notebooks import executing, store
from course_utils import machine
from course_utils.errors import CourseError

LARGEST = 20 * 2**20  # bytes of one notebook
MANY = 40  # notebooks in one packed file
PROGRESS = "progress.json"
COLUMNS = ("learner", "exercise", "solved", "tries", "message", "noticed", "file")
# what zipfile raises on a damaged, locked or hostile file
UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    RuntimeError,
    NotImplementedError,
    ValueError,
    KeyError,
    EOFError,
)
SOLVED = {True: "yes", False: "no", None: ""}


@dataclass
class HandedIn:
    """One notebook that was handed in: whose, where; or what is wrong with the file.

    Its text is read by the process that runs it and by no other: what one learner wrote is never in
    the memory that another one's code could look through.
    """

    learner: str
    file: str
    path: Path
    member: str = ""  # its name inside a packed file
    problem: str = ""
    tries: dict[str, int] = field(default_factory=dict)

    def raw(self) -> bytes:
        """The notebook's bytes.

        Raises:
            ValueError: it is too large, whatever size it claims to have, or cannot be read.
        """
        try:
            if self.member:
                with zipfile.ZipFile(self.path) as pack, pack.open(self.member) as content:
                    found = content.read(LARGEST + 1)
            else:
                with self.path.open("rb") as content:
                    found = content.read(LARGEST + 1)
        except UNREADABLE as error:
            raise ValueError(f"It cannot be read: {type(error).__name__}.") from None
        if len(found) > LARGEST:
            raise ValueError(f"It is larger than {LARGEST >> 20} MB.")
        return found


def found(folder: Path) -> Iterator[HandedIn]:
    """Every notebook below a folder, those in packed files too, in the order of their names.

    Raises:
        CourseError: there is no such folder.
    """
    if not folder.is_dir():
        raise CourseError(
            f"There is no folder {folder}.",
            "",
            "Put what learners handed in into a folder, and name that.",
        )
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        # no link: it could lead anywhere
        if hidden or path.is_symlink() or not path.is_file():
            continue
        learner = name.parts[0] if len(name.parts) > 1 else path.stem.removeprefix("open-llms-")
        if path.suffix == ".ipynb":
            yield HandedIn(learner, name.as_posix(), path)
        elif path.suffix == ".zip":
            yield from _packed(path, learner, name.as_posix())


def _packed(path: Path, learner: str, file: str) -> Iterator[HandedIn]:
    """The notebooks in a packed file, which is read and never unpacked onto the disk."""
    try:
        with zipfile.ZipFile(path) as pack:
            names = [name for name in pack.namelist() if name.endswith(".ipynb")][:MANY]
            tries = _tries(pack) if PROGRESS in pack.namelist() else {}
    except UNREADABLE as error:
        problem = f"It cannot be unpacked: {type(error).__name__}."
        yield HandedIn(learner, file, path, problem=problem)
        return
    for name in names:
        where = f"{file}/{PurePosixPath(name).name}"
        yield HandedIn(learner, where, path, name, tries=tries)
    if not names:
        yield HandedIn(learner, file, path, problem="There is no notebook in it.")


def _tries(pack: zipfile.ZipFile) -> dict[str, int]:
    """How often each exercise was tried, as the learner's own file says."""
    try:
        with pack.open(PROGRESS) as content:
            counts = json.loads(content.read(2**16))["tries"].items()
        return {str(key): int(n) for key, n in counts}
    except (*UNREADABLE, TypeError, AttributeError, RecursionError):
        return {}


def rows_of(one: HandedIn, seconds: int) -> list[dict[str, str]]:
    """The table's rows for one notebook."""
    rows, problem = [], one.problem
    if not problem:
        try:
            rows = running.notebook_rows(one.raw(), seconds)
            problem = "" if rows else "It holds none of the course's exercises."
        except ValueError as error:
            problem = str(error)
    if problem:
        rows = [running.Row("", None, problem)]
    return [
        {
            "learner": one.learner,
            "exercise": row.exercise,
            "solved": SOLVED[row.solved],
            "tries": str(one.tries.get(row.exercise, "")),
            "message": row.message,
            "noticed": "; ".join(row.noticed),
            "file": one.file,
        }
        for row in rows
    ]


def collect(folder: Path, at_once: int, seconds: int) -> list[dict[str, str]]:
    """The rows of all that was handed in.

    Args:
        folder: where it is.
        at_once: notebooks at the same time.
        seconds: processor time that one exercise's cell may take.

    Raises:
        CourseError: there is no such folder, nothing in it, or this system cannot lock code in.
    """
    from tqdm.auto import tqdm

    if not running.lockable():
        raise CourseError(
            "This system cannot lock a stranger's code in.",
            "collect uses two walls that only Linux has (seccomp, Landlock), on x86-64 and ARM64.",
            "Run it in the course's container, see INSTRUCTORS.md, or on a Linux machine.",
        )
    everything = list(found(folder))
    if not everything:
        raise CourseError(
            f"There is nothing to collect in {folder}.",
            "It has no notebook (.ipynb) and no packed file (.zip).",
            "Put what learners handed in into it, under any names.",
        )
    with executing.as_a_program():
        running.warm_up()
        with multiprocessing.get_context("fork").Pool(at_once) as pool:
            work = pool.imap(partial(rows_of, seconds=seconds), everything)
            bar = tqdm(work, total=len(everything), unit="notebook")
            return [row for rows in bar for row in rows]


def _plain(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    return f"'{clean}" if clean[:1] in ("=", "+", "-", "@") else clean


def as_csv(rows: Sequence[dict[str, str]]) -> str:
    """The table for a spreadsheet."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _plain(text) for name, text in row.items()} for row in rows)
    return file.getvalue()


def as_html(rows: Sequence[dict[str, str]]) -> str:
    """The table for a browser: who solved how many, then every exercise."""
    solved = Counter(row["learner"] for row in rows if row["solved"] == "yes")
    learners = sorted({row["learner"] for row in rows})
    totals = [{"learner": one, "solved": str(solved[one])} for one in learners]
    style = (
        "body{font-family:sans-serif;margin:2em}table{border-collapse:collapse;margin-bottom:2em}"
        "td,th{border:1px solid #bbb;padding:.3em .6em;text-align:left;vertical-align:top}"
    )
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Handed in</title>'
        f"<style>{style}</style>\n<h1>Handed in</h1>\n"
        f"{_table(('learner', 'solved'), totals)}\n{_table(COLUMNS, rows)}\n</html>\n"
    )


def _table(columns: Sequence[str], rows: Sequence[dict[str, str]]) -> str:
    """One HTML table."""
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(row[name])}</td>" for name in columns) + "</tr>"
        for row in rows
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def add_arguments(one: argparse.ArgumentParser) -> None:
    """The options of `collect`."""
    one.add_argument("folder", type=Path, help="notebooks or packed files, under any names")
    one.add_argument("--table", type=Path, default=Path("handed_in"), help="default: handed_in")
    one.add_argument("--at-once", type=int, default=machine.cores(), help="default: the cores")
    one.add_argument("--seconds", type=int, default=running.SECONDS, help="for one exercise's cell")


def run(args: argparse.Namespace) -> int:
    """Collect, write the table as CSV and HTML, and say what is in it.

    Raises:
        CourseError: as `collect`; a number below 1; or a file cannot be written.
    """
    if min(args.at_once, args.seconds) < 1:
        raise CourseError("--at-once and --seconds start at 1.")
    csv_path, html_path = args.table.with_suffix(".csv"), args.table.with_suffix(".html")
    if not csv_path.parent.is_dir():
        raise CourseError(f"There is no folder {csv_path.parent}.", "", "Make it first.")
    rows = collect(args.folder, args.at_once, args.seconds)
    store.put({csv_path: as_csv(rows), html_path: as_html(rows)})
    solved = sum(row["solved"] == "yes" for row in rows)
    marked = len({row["file"] for row in rows if row["noticed"]})
    print(f"{len({row['file'] for row in rows})} notebooks, {solved} exercises solved.")
    print(f"{marked} of the notebooks tried what they may not: see the column noticed.")
    if not sandbox.landlock_version():
        print("This Linux has no Landlock: the code could read this account's files.")
    print(f"{csv_path}\n{html_path}")
    return 0
