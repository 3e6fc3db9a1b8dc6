"""Collecting for a class: the table is right, the same each time, and nothing harms anyone."""

import csv
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from course_staff.collecting import collect, sandbox
from course_staff.notebooks import executing
from course_staff.notebooks import store as notebooks
from course_utils.errors import CourseError
from tests.staff import handed_in

pytestmark = pytest.mark.skipif(not sandbox.supported(), reason="only Linux locks code in")


def run(folder: Path, *more: str) -> tuple[list[dict[str, str]], str]:
    """(the table, what was said) of `python -m course_staff collect`."""
    command = [sys.executable, "-m", "course_staff", "collect", str(folder), *more]
    table = folder.parent / f"{folder.name}-table"
    done = subprocess.run(
        [*command, "--table", str(table)],
        cwd=notebooks.ROOT,
        env={**executing.environment(), "COURSE_STATIC": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with table.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file)), done.stdout


def of(rows: list[dict[str, str]], learner: str) -> list[dict[str, str]]:
    return [row for row in rows if row["learner"] == learner]


# -- a class -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def victim(tmp_path_factory) -> Path:
    """A file of the instructor's that nobody may touch."""
    path = tmp_path_factory.mktemp("desk") / "grades.csv"
    path.write_text("all of them")
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory, victim) -> list[dict[str, str]]:
    """The table of a class with honest, wrong and hostile notebooks in it."""
    folder = tmp_path_factory.mktemp("class") / "in"
    (folder / "bea").mkdir(parents=True)
    ada = handed_in.lesson("00_start_here", {"ex-1": handed_in.REVIEW, "ex-3": handed_in.COUNT})
    (folder / "ada.ipynb").write_text(ada, encoding="utf-8")
    (folder / "bea" / "my copy (2).ipynb").write_text(ada, encoding="utf-8")
    (folder / "cem.ipynb").write_text(handed_in.notebook(handed_in.WRONG))
    for kind, (source, _) in handed_in.hostile(victim).items():
        (folder / f"{kind}.ipynb").write_text(handed_in.notebook(source))
    rows, _ = run(folder, "--seconds", "3")
    return rows


@pytest.mark.slow
def test_an_honest_notebook_gets_what_it_solves(table):
    """A learner whose answers stand on cells further up, as in a lesson, is not told "no"."""
    rows = {row["exercise"]: row for row in of(table, "ada")}
    assert [(key, row["solved"]) for key, row in rows.items()] == [
        ("00.1", "yes"),
        ("00.2", ""),
        ("00.3", "yes"),
    ]
    assert rows["00.3"]["message"].startswith("correct.")
    assert rows["00.2"]["message"] == "not answered"
    assert not any(row["noticed"] for row in rows.values())


@pytest.mark.slow
def test_every_solution_of_the_course_counts_as_solved(tmp_path):
    """A learner who solves a lesson in the lesson has solved it in the instructor's table, too."""
    (folder := tmp_path / "in").mkdir()
    for path in (notebooks.FOLDER / "solutions").glob("*.ipynb"):
        (folder / path.name).write_bytes(path.read_bytes())
    rows, _ = run(folder)
    assert {row["learner"][:2] for row in rows} >= {"00", "05", "07"}
    assert [row for row in rows if row["solved"] != "yes" or row["noticed"]] == []


MANY = """
import asyncio
from course_utils.checks import check
def gathered(ask, reviews, at_once):
    free = asyncio.Semaphore(at_once)
    async def one(review):
        async with free:
            return await ask(review)
    return asyncio.gather(*map(one, reviews))
async def many(*given):
    return await gathered(*given)
class All:
    async def __call__(self, *given):
        return await gathered(*given)
def greedy(ask, reviews, at_once):
    return asyncio.gather(*map(ask, reviews))
check("01.5", {answer})
"""


@pytest.mark.slow
def test_whatever_can_be_awaited_counts_as_in_the_lesson(tmp_path):
    """A learner who wrote a class, a lambda or a gather in place of `async def`."""
    (folder := tmp_path / "in").mkdir()
    ways = {"dee": "All()", "eve": "lambda *a: many(*a)", "fay": "gathered", "guy": "greedy"}
    for name, answer in ways.items():
        (folder / f"{name}.ipynb").write_text(handed_in.notebook(MANY.replace("{answer}", answer)))
    rows, _ = run(folder)
    said = {row["learner"]: row["solved"] for row in rows if row["exercise"] == "01.5"}
    assert said == {"dee": "yes", "eve": "yes", "fay": "yes", "guy": "no"}, rows


@pytest.mark.slow
def test_the_same_notebook_gets_the_same_rows(table):
    """Two learners with the same notebook are marked alike, whatever they called it."""
    differ = {"learner", "file"}
    ada, bea = (
        [{k: v for k, v in row.items() if k not in differ} for row in of(table, learner)]
        for learner in ("ada", "bea")
    )
    assert ada == bea


@pytest.mark.slow
def test_a_wrong_answer_reads_as_in_the_lesson(table):
    """A learner hears from the collector what the lesson itself would have said."""
    (row,) = of(table, "cem")
    assert row["solved"] == "no"
    assert row["message"].startswith("not yet. It errs on this case: two BOS at the start")


@pytest.mark.slow
@pytest.mark.parametrize("kind", handed_in.hostile(Path("x")))
def test_a_hostile_notebook_is_marked_and_harms_nobody(table, victim, kind):
    """An instructor who runs the code of two hundred strangers on their own machine."""
    (row,) = of(table, kind)
    _, says = handed_in.hostile(victim)[kind]
    assert row["solved"] == "no"
    assert says in row["message"] + row["noticed"]
    assert victim.read_text() == "all of them"


# -- what is locked ------------------------------------------------------------------------------

LOCKED = """
import os, sys
from pathlib import Path
from course_staff.collecting import sandbox
import asyncio, ctypes, resource, shutil, signal, socket, subprocess, sysconfig, threading
folder, paths = Path(sys.argv[1]), [Path(p) for p in sysconfig.get_paths().values()]
sandbox.limit(30, 2**30)
sandbox.lock([*paths, Path("/usr/lib"), Path("/lib")])
tries = dict(
    write=lambda: open(folder / "new", "w"),
    append=lambda: open(folder / "here", "a"),
    remove=lambda: os.remove(folder / "here"),
    rename=lambda: os.rename(folder / "here", folder / "there"),
    link=lambda: os.symlink(folder / "here", folder / "link"),
    mkdir=lambda: os.mkdir(folder / "made"),
    chmod=lambda: os.chmod(folder / "here", 0),
    truncate=lambda: os.truncate(folder / "here", 0),
    utime=lambda: os.utime(folder / "here", (0, 0)),
    fork=os.fork,
    run=lambda: subprocess.run(["true"]),
    execute=lambda: os.execv("/bin/true", ["true"]),
    kill=lambda: os.kill(os.getppid(), signal.SIGTERM),
    internet=lambda: socket.socket(),
    unix=lambda: socket.socket(socket.AF_UNIX),
    others=lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE),
    raised=lambda: resource.setrlimit(resource.RLIMIT_CPU, (99, 99)),
    memory=lambda: bytearray(2**32),
)
if sandbox.landlock_version():
    tries |= dict(read=lambda: open(folder / "here"), look=lambda: os.listdir(folder))
for name, harm in tries.items():
    try:
        harm()
    except (OSError, ValueError, MemoryError):
        continue
    print(name)
asyncio.run(asyncio.sleep(0))
thread = threading.Thread(target=print, args=("fine",))
thread.start()
thread.join()
"""


def locked(program: str, *args: str) -> str:
    """What a program prints behind the walls."""
    done = subprocess.run(
        [sys.executable, "-c", program, *args], cwd=notebooks.ROOT, capture_output=True, text=True
    )
    return done.stdout or done.stderr


def test_the_walls_hold_and_python_still_works(tmp_path):
    """An instructor: each way out is tried by itself, past everything that Python could forbid."""
    (tmp_path / "here").write_text("x")
    assert locked(LOCKED, str(tmp_path)) == "fine\n"
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("here", "x")]


def test_without_landlock_nothing_is_written_either(tmp_path):
    """An instructor whose Linux is older: files can be read then, never changed."""
    (tmp_path / "here").write_text("x")
    older = "from course_staff.collecting import sandbox\nsandbox.landlock_version = lambda: 0\n"
    assert locked(older + LOCKED, str(tmp_path)) == "fine\n"
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("here", "x")]


def test_system_calls_have_the_numbers_of_this_kernel():
    """A maintainer who adds one: this machine's own list has the same number."""
    place = Path("/usr/include")
    headers = [place / "x86_64-linux-gnu/asm/unistd_64.h", place / "asm-generic/unistd.h"]
    if not all(header.is_file() for header in headers):
        pytest.skip("no C library headers here")
    for column, header in enumerate(headers, 1):
        text = header.read_text()
        pairs = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)
        known = {name: int(number) for name, number in pairs}
        if "fstatat" in known:
            known["newfstatat"] = known["fstatat"]
        for call in re.split(r"\n|  +", sandbox.CALLS.strip()):
            name, number = call.split()[0], call.split()[column]
            assert number == "-" or known[name] == int(number), name


# -- what is handed in ---------------------------------------------------------------------------


def test_files_that_are_no_notebooks_are_rows_not_crashes(tmp_path):
    """An instructor whose class hands in photographs, half downloads and packed folders."""
    (tmp_path / "a.ipynb").write_text("")
    (tmp_path / "b.zip").write_bytes(b"PK no")
    (tmp_path / "c.txt").write_text("my notebook is on my other computer")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "a-checkpoint.ipynb").write_text("{}")
    (tmp_path / "e.ipynb").symlink_to("/etc/hostname")
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as pack:
        pack.writestr("../../etc/x.ipynb", "{}")
        pack.writestr("progress.json", '{"tries": {"00.1": "many"}}')
    with zipfile.ZipFile(tmp_path / "f.zip", "w", zipfile.ZIP_DEFLATED) as pack:
        pack.writestr("large.ipynb", b" " * (collect.LARGEST + 9))
    found = {one.learner: one for one in collect.found(tmp_path)}
    assert sorted(found) == ["a", "b", "d", "f"]
    assert found["b"].problem.startswith("It cannot be unpacked")
    assert found["d"].file == "d.zip/x.ipynb" and found["d"].tries == {}
    with pytest.raises(ValueError, match="larger than"):
        found["f"].raw()


def test_a_learner_cannot_hand_in_under_another_name(tmp_path):
    """A learner whom another one wants to harm: only the file's own place names who it is."""
    with zipfile.ZipFile(tmp_path / "open-llms-eve.zip", "w") as pack:
        pack.writestr("ada/ada.ipynb", "{}")
        pack.writestr("progress.json", '{"name": "ada", "tries": {"00.1": 3}}')
    (one,) = collect.found(tmp_path)
    assert (one.learner, one.tries) == ("eve", {"00.1": 3})


def test_a_spreadsheet_runs_nothing_from_the_table():
    """An instructor who opens the table in a spreadsheet or browser: texts stay texts."""
    row = dict.fromkeys(collect.COLUMNS, "")
    rows = [row | {"learner": "=cmd|' /C calc'!A0", "message": "<script>alert(1)</script>"}]
    assert "\n'=cmd" in collect.as_csv(rows)
    page = collect.as_html(rows)
    assert "<script>" not in page and "&lt;script&gt;" in page


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_a_wrong_folder_is_a_sentence(tmp_path, folder):
    """An instructor with a typo in the folder's name."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(CourseError, match="There is no(thing to collect in| folder)"):
        collect.collect(tmp_path / folder, 1, 1)


def refuse(*given: object) -> None:
    raise PermissionError


@pytest.mark.parametrize("what", ["another system", "a kernel that refuses"])
def test_where_nothing_can_be_locked_it_says_so(tmp_path, monkeypatch, what):
    """An instructor on Windows or a Mac is told where it runs, before anything runs unlocked."""
    if what == "another system":
        monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    else:
        monkeypatch.setattr(sandbox, "lock", refuse)
    with pytest.raises(CourseError, match="cannot lock a stranger's code in"):
        collect.collect(tmp_path, 1, 1)
