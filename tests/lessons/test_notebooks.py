"""The stored notebooks are in order, and each kind of disorder is found by its name."""

import copy
import os
import re
import shutil
import subprocess
import sys
from urllib.parse import unquote

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from course_staff.notebooks import address, cards, cleaning, shared
from course_staff.notebooks import checks as notebook_checks
from course_staff.notebooks import store as notebooks
from course_utils import checks
from course_utils.errors import CourseError

STORED = notebooks.every()
NAME = "00_start_here"


@pytest.mark.parametrize("path", STORED, ids=notebooks.key)
def test_a_stored_notebook_has_no_problem(path):
    """A learner opens a notebook that was run from top to bottom and holds nothing private."""
    found = notebook_checks.problems(path)
    assert not found, "\n".join(found)


def test_the_files_fit_each_other():
    """A learner finds in the README, the preflight and the solutions what the lessons say."""
    found = notebook_checks.problems_between()
    assert not found, "\n".join(found)


def test_lessons_are_numbered_in_reading_order():
    """A learner goes from 00 upwards without a gap."""
    numbers = [path.name[:2] for path in notebooks.lessons()]
    assert numbers == [f"{n:02}" for n in range(len(numbers))]
    assert set(numbers) <= set(checks.LESSONS)


# -- planted faults: a check that finds nothing is no check ---------------------------------------


@pytest.fixture(scope="module")
def lesson():
    """Lesson 00 as it is stored."""
    return notebooks.read(notebooks.FOLDER / f"{NAME}.ipynb")


@pytest.fixture
def mine(lesson):
    """A copy to break."""
    return copy.deepcopy(lesson)


def some(notebook, with_text: bool = True):
    """A code cell in the middle that prints something and is compared."""
    plain = [c for c in notebook.cells if "jupyter" not in c.metadata]
    cells = [c for c in plain if c.cell_type == "code" and c.id != "setup"]
    return next(c for c in cells if not with_text or any("text" in o for o in c.outputs))


def says(notebook, name: str = NAME) -> str:
    return "\n".join(notebook_checks.faults(notebook, name))


def test_the_lesson_to_break_is_whole(mine):
    """The faults below are the planted ones."""
    assert says(mine) == ""


def test_a_cell_that_was_not_run_is_found(mine):
    """A teacher who edits a cell and forgets to run it is told which (nbval would not see it)."""
    cell = some(mine)
    cell.execution_count, cell.outputs = None, []
    assert f"cell {cell.id}: executed as None" in says(mine)


def test_cells_run_out_of_order_are_found(mine):
    """A learner's run from top to bottom gives what is stored."""
    codes = [c for c in mine.cells if c.cell_type == "code"]
    codes[2].execution_count, codes[3].execution_count = 4, 3
    assert f"cell {codes[2].id}: executed as 4, should be 3" in says(mine)


def test_an_empty_and_an_endless_cell_are_found(mine):
    """A learner never meets a cell without content or one that does not fit the screen."""
    codes = [c for c in mine.cells if c.cell_type == "code"]
    codes[1].source = "  "
    codes[2].source = "x = 1\n" * (notebook_checks.SCREEN + 1)
    assert f"cell {codes[1].id}: is empty" in says(mine)
    assert f"cell {codes[2].id}: is longer than a screen" in says(mine)


# put together here, so that no scanner takes this file for a leak
KEYS = ["sk-" + "a1" * 12, "sk-proj-" + "b2_" * 8, "hf_" + "cD3" * 10, "ghp_" + "e4" * 18]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_found_in_outputs_and_sources(mine, key):
    """A teacher's key is not published, wherever it got to."""
    cell = some(mine)
    cell.outputs.append(new_output("stream", text=f"key: {key}\n"))
    assert f"cell {cell.id}: shows a key" in says(mine)
    cell.outputs.pop()
    cell.source += f'\nclient = OpenAI(api_key="{key}")'
    assert f"cell {cell.id}: shows a key" in says(mine)


def test_the_teachers_own_key_is_found_whatever_it_looks_like(mine, monkeypatch):
    """A key of another provider has another shape; it is in the environment all the same."""
    monkeypatch.setenv("OPENAI_API_KEY", "quite-another-shape")
    some(mine).outputs.append(new_output("stream", text="quite-another-shape"))
    assert "shows a key" in says(mine)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("an absolute path", "Loading /home/someone/model"),
        ("an absolute path", "'/root/.cache/huggingface'"),
        ("an absolute path", "/Users/someone/x"),
        ("an absolute path", 'File "/usr/lib/python3/x.py"'),
        ("an absolute path", "(/tmp/abc/x.json)"),
        ("an absolute path", r"C:\Users\someone"),
        ("a warning", "FutureWarning: x is deprecated"),
        ("a warning", "UserWarning: To exit"),
        ("an object's address", "<Model object at 0x7f1c2a3b4c5d>"),
    ],
)
@pytest.mark.parametrize("kind", ["stream", "text/plain", "text/html"])
def test_what_varies_by_machine_is_found(mine, what, text, kind):
    """A learner's machine gives the same output, and nobody reads the teacher's folders."""
    output = (
        new_output("stream", text=text)
        if kind == "stream"
        else new_output("display_data", data={kind: text})
    )
    cell = some(mine)
    cell.outputs.append(output)
    assert f"cell {cell.id}: its output shows {what}" in says(mine)


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/home/page and http://localhost:8000/v1/models",
        "and/or, 1/2, tokens/s, km/h, w/o",
        "../models/x and notebooks/tmp/x and ~/models",
        "POST /v1/chat/completions",
        "Warning signs, a warning",
        "0x7f",
    ],
)
def test_ordinary_text_is_no_fault(mine, text):
    """A teacher is not sent after faults that are none."""
    some(mine).outputs.append(new_output("stream", text=text))
    assert says(mine) == ""


def test_stored_stderr_widgets_and_errors_are_found(mine):
    """A learner sees no progress bar of yesterday, no dead widget, no unannounced traceback."""
    cell = some(mine)
    cell.outputs += [
        new_output("stream", name="stderr", text="100%"),
        new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {}}),
        new_output("error", ename="KeyError", evalue="'x'", traceback=[]),
    ]
    said = says(mine)
    assert f"cell {cell.id}: stderr is stored" in said
    assert f"cell {cell.id}: a widget is stored" in said
    assert f"cell {cell.id}: ends in KeyError without the tag" in said
    cell.metadata["tags"] = [notebook_checks.RAISES]
    assert "ends in KeyError" not in says(mine)


def test_editor_leftovers_are_found(mine):
    """A teacher's diff shows what changed in the lesson and nothing else."""
    mine.metadata["widgets"] = {}
    mine.metadata["language_info"] = {"name": "python", "version": "3.11.7"}
    mine.metadata["kernelspec"] = {"name": "my-venv"}
    cell = some(mine)
    cell.metadata = {"collapsed": True, "tags": ["no-such-tag"]}
    cell.outputs.append(new_output("display_data", data={"text/plain": "x"}, metadata={"a": 1}))
    said = says(mine)
    for fault in (
        "metadata: widgets does not belong there",
        "metadata: language_info should be the name alone",
        "metadata: the kernel should be python3",
        f"cell {cell.id}: metadata other than its tags ask for",
        f"cell {cell.id}: unknown tag no-such-tag",
        f"cell {cell.id}: an output has metadata",
    ):
        assert fault in said


def test_two_cells_of_one_id_are_found(mine):
    """A teacher who copies a cell gives it a name of its own."""
    cell = some(mine)
    mine.cells.append(new_markdown_cell("x", id=cell.id))
    assert f"cell {cell.id}: the id is not the only one" in says(mine)


def test_an_ignored_cell_needs_its_reason_twice(mine, monkeypatch):
    """A teacher who stops comparing an output says why, in the cell and in the list."""
    cell = some(mine)
    cell.metadata["tags"] = [notebook_checks.IGNORE]
    assert f"cell {cell.id}: ignored, its first line should be" in says(mine)
    cell.source = f"# not compared: seconds vary\n{cell.source}"
    assert f"cell {cell.id}: ignored, with another reason or none" in says(mine)
    listed = copy.deepcopy(notebook_checks.ignored_cells())
    listed.setdefault(NAME, {})[cell.id] = "seconds vary"
    monkeypatch.setattr(notebook_checks, "ignored_cells", lambda: listed)
    assert says(mine) == ""
    listed[NAME]["no-such-cell"] = "seconds vary"
    assert "ignored_cells.toml: cell no-such-cell is not there" in says(mine)
    listed["09_no_such_lesson"] = {}
    assert "ignored_cells.toml: there is no notebook 09_no_such_lesson" in (
        notebook_checks.problems_between()
    )


def test_a_marker_in_the_code_is_found(mine):
    """A teacher cannot skip a cell past the list."""
    cell = some(mine)
    cell.source = f"# NBVAL_IGNORE_OUTPUT\n{cell.source}"
    assert f"cell {cell.id}: a marker in the code" in says(mine)


def test_too_many_ignored_cells_are_found(mine, monkeypatch):
    """A learner can rely on most outputs: four in five are compared."""
    listed = {}
    for cell in [c for c in mine.cells if c.cell_type == "code" and c.outputs][:4]:
        cell.source = f"# not compared: chance\n{cell.source}"
        cell.metadata["tags"] = [notebook_checks.IGNORE]
        listed[cell.id] = "chance"
    monkeypatch.setattr(notebook_checks, "ignored_cells", lambda: {NAME: listed})
    assert "cells with output are compared" in says(mine)


@pytest.mark.parametrize("cell_id", ["title", "setup", "card"])
def test_a_changed_shared_cell_is_found(mine, cell_id):
    """A learner's badge opens this lesson, the setup works, the card is true."""
    notebooks.cell_by_id(mine, cell_id).source += "\n"
    cell = notebooks.cell_by_id(mine, cell_id)
    cell.source = cell.source.replace("02_", "03_").replace(NAME, "01_api_calls") + "x"
    assert f"cell {cell_id}: " in says(mine)
    shared.render(mine, NAME)
    if cell_id != "title":
        assert f"cell {cell_id}: " not in says(mine)


def test_a_missing_shared_cell_is_found(mine):
    """A learner on Colab never opens a lesson that cannot set itself up."""
    mine.cells = [c for c in mine.cells if c.id not in ("title", "setup", "card")]
    said = says(mine)
    for cell_id in ("title", "setup", "card"):
        assert f"cell {cell_id}: " in said


def test_an_incomplete_card_is_found(mine):
    """A learner knows before starting what a lesson costs."""
    del mine.metadata["course"]["pocket"]["dollars"], mine.metadata["course"]["about"]
    assert "the card lacks about, dollars" in says(mine)


def test_exercises_that_are_missing_solved_or_unsolved_are_found(mine):
    """A learner finds every exercise untouched in the lesson and solved in the solutions."""
    cell = next(c for c in mine.cells if "exercise" in c.metadata.get("tags", []))
    key = "00.1"
    assert key in cell.source
    cell.outputs[0].text = f"Exercise {key}: correct."
    assert f"exercise {key}: its output does not say 'not answered yet.'" in says(mine)
    cell.metadata = {}
    assert f"exercise {key}: no cell tagged exercise checks it" in says(mine)
    assert f"exercise {key}: its output does not say 'correct.'" in says(
        notebooks.read(notebooks.FOLDER / f"{NAME}.ipynb"), f"solutions/{NAME}"
    )
    mine.cells = [c for c in mine.cells if "quiz(" not in c.get("source", "")]
    assert "self-test: no cell calls quiz" in says(mine)


# -- executing, cleaning, cards ------------------------------------------------------------------


def test_cleaning_leaves_what_the_cell_said():
    """A teacher's `make notebooks` stores the same bytes, however the kernel cut the output."""
    cell = new_code_cell("x", id="a-cell", metadata={"tags": ["exercise"], "collapsed": True})
    cell.outputs = [
        new_output("stream", text="one\n"),
        new_output("stream", name="stderr", text="bar"),
        new_output("stream", text="two\n"),
        new_output("display_data", data={"text/plain": "x"}, metadata={"image/png": {"width": 1}}),
    ]
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {}, "course": {"a": 1}})
    cleaning.clean(notebook)
    assert [o.get("text") for o in cell.outputs] == ["one\ntwo\n", None]
    assert cell.outputs[1].metadata == {}
    assert cell.metadata == {"tags": ["exercise"]}
    assert set(notebook.metadata) == {"kernelspec", "language_info", "course"}


def test_a_tag_folds_a_cell_away_in_every_program():
    """A learner who shall guess before the answer shows: in JupyterLab, on Colab, on the site."""
    cells = [
        new_code_cell("answer()", id="answer", metadata={"tags": ["hide-output"]}),
        new_code_cell("pip()", id="long", metadata={"tags": ["hide-input", "hide-output"]}),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    for _ in range(2):
        cleaning.clean(notebook)
    nbformat.validate(notebook)
    answer, long = (cell.metadata for cell in notebook.cells)
    assert answer == {
        "tags": ["hide-output"],
        "collapsed": True,
        "jupyter": {"outputs_hidden": True},
    }
    assert long["jupyter"] == {"outputs_hidden": True, "source_hidden": True}
    assert long["cellView"] == "form"
    answer["tags"] = []
    cleaning.clean(notebook)
    assert notebook.cells[0].metadata == {}, "what no tag asks for does not stay"


def test_a_fold_that_no_tag_asks_for_is_found(mine):
    """A learner finds open what the author meant to be open: an editor's fold is not stored."""
    cell = some(mine)
    cell.metadata["jupyter"] = {"outputs_hidden": True}
    assert f"cell {cell.id}: metadata other than its tags ask for" in says(mine)
    cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-output"]
    cell.metadata["collapsed"] = True
    assert "metadata other than" not in says(mine)


@pytest.mark.parametrize("path", STORED, ids=notebooks.key)
def test_the_first_screen_is_the_lesson(path):
    """A learner without a network: no broken picture on top, no page of pip before the lesson."""
    notebook = notebooks.read(path)
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert not [text for text in texts if re.search(r"!\[[^\]]*\]\(http|<img[^>]+http", text)]
    setup = notebooks.cell_by_id(notebook, "setup")
    assert setup.metadata["jupyter"]["source_hidden"] and setup.metadata["cellView"] == "form"
    assert setup.source.startswith("# @title "), "Colab's form shows this in place of the code"


def test_a_setup_cell_is_put_before_the_first_code_cell():
    """A teacher who writes a new lesson gets badge and setup without copying them."""
    cells = [new_markdown_cell("# 09 New\n\nWhat it is.", id="title"), new_code_cell("1", id="a")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    shared.render(notebook, "09_new")
    shared.render(notebook, "09_new")
    assert [cell.id for cell in notebook.cells] == ["title", "setup", "a"]
    lines = notebook.cells[0].source.splitlines()
    assert lines == ["# 09 New", "", shared.badge("09_new"), "", "What it is."]


def test_a_badge_opens_the_same_lesson_everywhere():
    """A learner on any of the services gets this very lesson; Codespaces opens the whole course."""
    found = shared.links("notebooks/09_new.ipynb")
    assert list(found) == ["Colab", "Kaggle", "Lightning", "Binder", "Codespaces"]
    codespaces = found.pop("Codespaces")
    own = address.address().removeprefix("https://github.com/")
    assert own in codespaces
    for link in found.values():
        assert unquote(link).endswith("/notebooks/09_new.ipynb") and own in unquote(link)
    for link in [*found.values(), codespaces]:
        assert f"]({link})" in shared.badge("09_new")


def test_a_badge_of_the_stand_in_is_no_dead_end(monkeypatch):
    """A learner of a copy without an address reads why a link leads nowhere; a fork's does not."""
    monkeypatch.setattr(shared, "address", lambda: f"https://github.com/{address.STAND_IN}/a")
    assert shared.badge("09_new").endswith(address.STAND_IN_NOTE)
    monkeypatch.setattr(shared, "address", lambda: "https://github.com/owner/a")
    assert address.STAND_IN_NOTE not in shared.badge("09_new")


def test_a_card_changes_only_when_it_has_become_untrue():
    """A teacher who measures again gets no diff for a second more or less."""
    assert cards.settled(None, 1.2, 0.5) == 1.5
    assert cards.settled(1.5, 1.4, 0.5) == 1.5
    assert cards.settled(1.5, 0.9, 0.5) == 1.5
    assert cards.settled(1.5, 1.6, 0.5) == 2.0
    assert cards.settled(5.0, 0.9, 0.5) == 1.0


@pytest.fixture
def fork(tmp_path):
    """A learner's or instructor's own copy of the repository, small."""
    ignore = shutil.ignore_patterns("__pycache__", "pocket_llama")
    for wing in ("course_utils", "course_staff"):
        shutil.copytree(notebooks.ROOT / wing, tmp_path / wing, ignore=ignore)
    left = shutil.ignore_patterns(".ipynb_checkpoints")  # JupyterLab's, where somebody worked
    shutil.copytree(notebooks.FOLDER, tmp_path / "notebooks", ignore=left)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(notebooks.ROOT / name, tmp_path)
    return tmp_path


def test_one_command_moves_the_course_to_another_address(fork):
    """An instructor who forks the course has badges and setup cells that lead to the fork."""
    new = "another-owner/another.name"
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "course_staff", "address", f"git@github.com:{new}.git"],
            cwd=fork,
            env=os.environ | {"PYTHONPATH": str(fork)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert "Nothing to change" in done.stdout
    old = address.address().removeprefix("https://github.com/")
    for path in [fork / "pyproject.toml", fork / "README.md", *fork.glob("notebooks/**/*.ipynb")]:
        text = path.read_text(encoding="utf-8")
        assert old not in unquote(text), path.name
        assert new in text, path.name
        assert address.STAND_IN_NOTE not in text, path.name


@pytest.mark.parametrize(
    "wrong", ["owner/name", "https://gitlab.com/a/b", "https://github.com/a", ""]
)
def test_an_address_that_is_none(wrong):
    """An instructor's typo changes no file."""
    with pytest.raises(CourseError):
        address.rewrite_address(wrong)


@pytest.mark.slow
def test_the_setup_cell_ends_in_a_message_where_the_course_cannot_be_had(tmp_path):
    """A learner on Colab without network, or with a wrong source, reads pip's reason."""
    from nbclient import NotebookClient

    cell = new_code_cell(
        "import importlib.util\nimportlib.util.find_spec = lambda name: None\n"
        "import os\nos.environ['COURSE_SOURCE'] = 'no-such-folder/course'\n" + shared.setup_source()
    )
    notebook = nbformat.v4.new_notebook(cells=[cell, new_code_cell("print('still here')")])
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(
        notebook, allow_errors=True, kernel_name="python3", resources=resources
    ).execute()
    said = notebook.cells[0].outputs[-1]
    assert said.output_type == "error"
    assert len(said.traceback) == 1, "a message, not a traceback"
    assert "could not be installed" in said.traceback[0]
    assert "Next: " in said.traceback[0]
    assert notebook.cells[1].outputs[0].text == "still here\n"
