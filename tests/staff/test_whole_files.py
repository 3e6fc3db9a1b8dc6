"""What staff's commands store: whole or not at all, and noticed before the minutes of running."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook

from course_staff.__main__ import main
from course_staff.notebooks import keeping
from course_staff.notebooks import store as notebooks
from course_staff.recording import ladder
from course_staff.validation import report
from course_utils.errors import CourseError

resource = pytest.importorskip("resource", reason="file size limits are a Unix matter")
PASSED = {
    "passed": True,
    "made": "then",
    "seconds": 1,
    "versions": {},
    "between": [],
    "notebooks": [],
}


def failed_report(stored: str, fresh: str) -> dict:
    """A report on one changed cell."""
    cell = {"cell": "x", "kind": "changed", "says": "", "source": "", "traceback": ""}
    result = {
        "notebook": "n",
        "passed": False,
        "cells": 1,
        "changed": [{**cell, "stored": stored, "fresh": fresh}],
        "problems": [],
        "minutes": 0,
        "peak_gib": 0,
        "card": {"run_minutes": None, "memory_gib": None},
    }
    return {**PASSED, "passed": False, "notebooks": [result]}


def with_small_files(limit: int, *words: str, cwd: Path = notebooks.ROOT):
    """Run Python where no file may grow beyond `limit` bytes, as on a full disk."""

    def before() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        preexec_fn=before,
        env={"PYTHONPATH": str(cwd), "PYTHONDONTWRITEBYTECODE": "1", "PATH": ""},
    )


@pytest.fixture
def fork(tmp_path) -> Path:
    """An instructor's copy of the repository, without its model."""
    leave = shutil.ignore_patterns("__pycache__", "pocket_llama", ".ipynb_checkpoints")
    for name in ("course_utils", "course_staff", "notebooks"):
        shutil.copytree(notebooks.ROOT / name, tmp_path / name, ignore=leave)
    for name in ("README.md", "INSTRUCTORS.md", "pyproject.toml"):
        shutil.copy(notebooks.ROOT / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize("limit", [20_000, 100_000])
def test_an_address_on_a_full_disk_changes_nothing_and_can_be_tried_again(fork, limit):
    """An instructor whose disk is full while the fork gets its address."""
    command = ["-m", "course_staff", "address", "https://github.com/someone/a-fork"]
    texts = {
        path: path.read_bytes() for path in fork.rglob("*") if path.suffix in (".ipynb", ".md")
    }
    done = with_small_files(limit, *command, cwd=fork)
    assert done.returncode == 2 and "Make room on the disk" in done.stderr
    assert "Traceback" not in done.stderr
    assert all(path.read_bytes() == text for path, text in texts.items())
    assert not list(fork.rglob(".*.new"))
    assert with_small_files(2**30, *command, cwd=fork).returncode == 0
    assert all("someone/a-fork" in path.read_text("utf-8") for path in fork.rglob("*.ipynb"))


def test_a_recording_on_a_full_disk_keeps_the_one_before(tmp_path):
    """A learner of lesson 04, which reads every file of the folder: none is half a recording."""
    path = tmp_path / "run.json"
    path.write_text('{"rungs": [1]}')
    code = (
        "from pathlib import Path\nfrom course_staff.recording import ladder\n"
        f"ladder.write(Path({str(path)!r}), {{'rungs': ['x' * 50] * 400}})"
    )
    done = with_small_files(8192, "-c", code)
    assert done.returncode and "CourseError" in done.stderr
    assert json.loads(path.read_text()) == {"rungs": [1]}
    assert [one.name for one in tmp_path.iterdir()] == ["run.json"]


def test_a_recording_is_not_begun_where_it_cannot_be_kept(tmp_path):
    """Someone who records for an hour on a rented card, into a folder that is a file."""
    (tmp_path / "runs").write_text("")
    with pytest.raises(CourseError, match="cannot be made"):
        ladder.write(tmp_path / "runs" / "run.json", {})


@pytest.mark.parametrize("length", [60, 70_000, 1_000_000])
def test_a_report_shows_a_difference_in_a_line_of_any_length(tmp_path, length):
    """An instructor whose notebook prints one long line, as `print(a_list)` does."""
    common = "a" * length
    page = report.write(failed_report(f"{common}old", f"{common}new"), tmp_path)
    text = page.read_text(encoding="utf-8")
    assert 'class="diff_' in text and "old" in text and "new" in text
    assert len(text) < 100_000, "what is the same is not repeated"


def test_a_report_starts_where_the_outputs_begin_to_differ(tmp_path):
    """An instructor who looks for line 700 of an output."""
    stored = "\n".join(f"line {n}" for n in range(900))
    page = report.write(failed_report(stored, stored.replace("line 700", "LINE 700")), tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "LINE" in text and "699" in text and ">line&nbsp;5<" not in text


def test_no_report_of_yesterday_stays_beside_todays_failure(tmp_path):
    """An instructor on a full disk does not read that all notebooks pass."""
    report.write(PASSED, tmp_path)
    code = (
        "from pathlib import Path\nfrom course_staff.validation import report\n"
        f"report.write({failed_report('a', 'b' * 9000)!r}, Path({str(tmp_path)!r}))"
    )
    done = with_small_files(4096, "-c", code)
    assert done.returncode and "CourseError" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_report_folder_that_is_none_is_noticed_before_the_run(tmp_path, capsys):
    """An instructor who mistypes --report hears it at once, not after the minutes of running."""
    (tmp_path / "report").write_text("a file")
    notebook = new_notebook(cells=[new_code_cell("open('ran', 'w')", id="a", execution_count=1)])
    notebooks.write(notebook, tmp_path / "one.ipynb")
    said = main(["validate", str(tmp_path / "one.ipynb"), "--report", str(tmp_path / "report")])
    assert said == 2 and "No report can be written" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_kernel_that_dies_ends_its_own_notebook_only(tmp_path, monkeypatch, capsys):
    """A maintainer whose `make notebooks` meets a lesson that dies: the rest go on."""
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    for name, code in (("00_dies", "import os; os._exit(9)"), ("01_fine", "print('fine')")):
        cells = [new_code_cell("pass", id="setup"), new_code_cell(code, id="a")]
        notebooks.write(new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    monkeypatch.setattr("course_staff.notebooks.shared.SETUP", "pass")
    before = (tmp_path / "00_dies.ipynb").read_bytes()
    assert keeping.run(notebooks.lessons()) == 1
    assert "its kernel ended" in capsys.readouterr().out
    assert (tmp_path / "00_dies.ipynb").read_bytes() == before
    assert "fine" in (tmp_path / "01_fine.ipynb").read_text("utf-8")


def test_a_notebook_from_elsewhere_is_refused_in_a_sentence(tmp_path, capsys):
    """An instructor who names a file outside the course, or half a file."""
    notebooks.write(new_notebook(), tmp_path / "mine.ipynb")
    assert keeping.run([tmp_path / "mine.ipynb"]) == 1
    assert "is not in the course's notebooks/" in capsys.readouterr().out
    (tmp_path / "half.ipynb").write_text('{"cells": [')
    with pytest.raises(CourseError, match="cannot be read as a notebook"):
        notebooks.read(tmp_path / "half.ipynb")
