"""`python -m course_staff validate`: planted changes are caught, each by a check that names it."""

import json
import os
import re
import time

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from course_staff.__main__ import main
from course_staff.notebooks import store as notebooks
from course_staff.validation import report as validate_report
from course_staff.validation import validate
from course_utils.errors import CourseError

LIBRARY = "def score(text, scale=1):\n    return len(text) * scale\n"
LIBRARY_WITHOUT_SCALE = "def score(text):\n    return len(text)\n"


def printed(text: str) -> list:
    return [new_output("stream", name="stdout", text=text)]


def cell(number: int, name: str, source: str, shows: str = "", tags: tuple = ()):
    return new_code_cell(
        source,
        id=name,
        execution_count=number,
        outputs=printed(shows) if shows else [],
        metadata={"tags": list(tags)} if tags else {},
    )


def good_cells() -> list:
    """A lesson in small: a library, a label, something that varies, something on stderr."""
    return [
        cell(1, "load", "import os, sys, time\nfrom library import score"),
        cell(2, "label", "print('Positive')", "Positive\n"),
        cell(3, "score", "print(score('beans', scale=2))", "10\n"),
        cell(4, "log", "print('a log line', file=sys.stderr)"),
        cell(5, "clock", "print(time.time())", "1.0\n", ["nbval-ignore-output"]),
        cell(6, "key", "print('OPENAI_API_KEY' in os.environ)", "False\n"),
    ]


def stored(folder, cells, name="lesson.ipynb", library=LIBRARY, **course):
    folder.mkdir(exist_ok=True)
    (folder / "library.py").write_text(library)
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    if course:
        metadata["course"] = {"pocket": course}
    nbformat.write(new_notebook(cells=cells, metadata=metadata), folder / name)
    return folder / name


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """One validation of a true notebook and of one with every change that only shows when run."""
    folder = tmp_path_factory.mktemp("own")
    os.environ["OPENAI_API_KEY"] = "the instructor's own"
    true = stored(folder / "true", good_cells(), run_minutes=60, memory_gib=60)
    cells = good_cells()
    cells[1].outputs = printed("Negative\n")
    cells[4].source = "print(time.time()); stale = 1"  # ignored: may change
    cells.append(cell(7, "stale", "print(2 + 3)", "4\n"))
    cells.append(cell(8, "empty", "print('new')", ""))
    planted = stored(
        folder / "planted", cells, library=LIBRARY_WITHOUT_SCALE, run_minutes=0.0, memory_gib=0.0
    )
    try:
        return dict(zip(("true", "planted"), validate.run([true, planted]), strict=True))
    finally:
        del os.environ["OPENAI_API_KEY"]


def test_a_true_copy_passes_anywhere(outcome):
    """An instructor whose changed copy is right: no false alarm over times, logs or their key."""
    assert outcome["true"]["changed"] == [] and outcome["true"]["problems"] == []
    assert outcome["true"]["passed"] and outcome["true"]["cells"] == 6
    assert outcome["true"]["peak_gib"] > 0.01


def test_another_label_is_named_with_its_cell(outcome):
    """A learner who would see another label than the text explains."""
    changed = {one["cell"]: one for one in outcome["planted"]["changed"]}
    assert changed["label"]["kind"] == "changed"
    assert changed["label"]["stored"] == "Negative\n" and changed["label"]["fresh"] == "Positive\n"


def test_a_removed_argument_is_named_with_its_error(outcome):
    """A learner whose library is newer than the lesson."""
    changed = {one["cell"]: one for one in outcome["planted"]["changed"]}
    assert changed["score"]["kind"] == "stopped"
    assert "TypeError" in changed["score"]["says"] and "scale" in changed["score"]["says"]
    assert "\x1b" not in changed["score"]["traceback"]


def test_a_cell_edited_after_it_ran_is_named(outcome):
    """A learner who reads an output that this code does not give."""
    named = {one["cell"] for one in outcome["planted"]["changed"]}
    assert named == {"label", "score", "stale", "empty"}


def test_what_the_card_promises_is_held(outcome):
    """A learner with an old laptop who decides by the card."""
    slow, big = outcome["planted"]["problems"]
    assert "min, its card says 0" in slow and "GiB, its card says 0" in big


def test_the_report_is_one_page_and_one_file_for_machines(outcome, tmp_path):
    """An instructor on the morning of class; and CI."""
    between = ["README.md: <its> table"]
    report = validate.report(list(outcome.values()), time.time(), validate.versions(), between)
    page = validate_report.write(report, tmp_path / "new" / "folder").read_text(encoding="utf-8")
    assert "1 of 2 notebooks pass" in page and "&lt;its&gt;" in page
    assert "Cell <code>score</code> stops with an error" in page
    assert 'class="diff_' in page and "http" not in page.replace("http-equiv", "")
    stored_json = json.loads((tmp_path / "new" / "folder" / "report.json").read_text("utf-8"))
    assert stored_json == report


@pytest.mark.slow
def test_a_kernel_that_dies_is_reported(tmp_path):
    """CI that must not hang when a lesson runs out of memory."""
    path = stored(tmp_path, [cell(1, "dies", "import os\nos._exit(1)"), cell(2, "b", "1")])
    (result,) = validate.run([path])
    assert not result["passed"] and result["changed"][0]["kind"] == "lost"


@pytest.mark.slow
def test_the_command_says_it_in_its_exit_status(tmp_path, capsys):
    """CI, and an instructor's own script."""
    path = stored(tmp_path, [cell(1, "one", "print(1)", "2\n")])
    assert main(["validate", str(tmp_path), "--report", str(tmp_path / "report")]) == 1
    said = capsys.readouterr()
    assert "0 passed, 1 failed" in said.out
    assert "cell one shows something else" in said.out + said.err
    assert path.name in (tmp_path / "report" / "report.html").read_text("utf-8")


# -- what shows without running ------------------------------------------------------------------


def test_a_cell_that_never_ran_is_named(tmp_path):
    """A learner of a notebook saved with a cell that nobody executed: nbval passes it over."""
    cells = good_cells()
    cells[2].execution_count, cells[2].outputs = None, []
    cells[3].execution_count = 9
    problems = validate.stored_problems(stored(tmp_path, cells))
    assert "cell score: executed as None, should be 3" in problems
    assert "cell log: executed as 9, should be 4" in problems


@pytest.mark.parametrize(
    "text",
    ["sk-" + "proj-a1B2c3D4e5F6g7H8i9J0", "hf_" + "abcdefghijklmnopqrstuvwxyz", "typed-by-hand-99"],
)
def test_a_secret_in_an_output_is_named(tmp_path, monkeypatch, text):
    """An instructor who would publish a key."""
    monkeypatch.setenv("OPENAI_API_KEY", "typed-by-hand-99")
    cells = good_cells()
    cells[1].outputs = printed(f"key {text}\n")
    assert validate.stored_problems(stored(tmp_path, cells)) == ["cell label: shows a key"]


def test_a_broken_badge_is_named(tmp_path, monkeypatch):
    """A learner who clicks the badge and lands in another lesson."""
    notebook = notebooks.read(notebooks.lessons()[0])
    title = notebooks.cell_by_id(notebook, "title")
    title.source = title.source.replace("00_start_here.ipynb", "01_api_calls.ipynb")
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    nbformat.write(notebook, tmp_path / "00_start_here.ipynb")
    problems = validate.stored_problems(tmp_path / "00_start_here.ipynb")
    assert [one for one in problems if one.startswith("cell title: no badge that opens this")]


def test_a_file_that_is_no_notebook_is_a_problem_not_a_crash(tmp_path):
    """An instructor with a half-downloaded file in the folder."""
    (tmp_path / "half.ipynb").write_text('{"cells": [')
    (problem,) = validate.stored_problems(tmp_path / "half.ipynb")
    assert "half.ipynb cannot be read" in problem


def test_folders_and_names(tmp_path):
    """An instructor who names a folder, or mistypes a notebook."""
    path = stored(tmp_path / "a", good_cells())
    stored(tmp_path / "a" / ".ipynb_checkpoints", good_cells())
    assert validate.found([tmp_path]) == [path]
    assert validate.found([]) == notebooks.every()
    with pytest.raises(CourseError, match="neither a notebook nor a folder"):
        validate.found([tmp_path / "01_api_cals.ipynb"])


def test_ci_runs_commands_that_exist_and_keeps_their_reports():
    """A maintainer whose weekly run would otherwise check nothing, or leave nothing to read."""
    text = (notebooks.ROOT / ".github/workflows/validate.yml").read_text(encoding="utf-8")
    makefile = (notebooks.ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"run: make ([\w-]+)", text):
        assert re.search(rf"^(?:[\w -]+ )?{target}(?: [\w -]+)?:", makefile, re.M), target
    for name in ("validation", "newest", "colab", "browser"):
        assert f"build/{name}" in makefile and f"build/{name}\n" in text, name
