"""The file to hand in: whole, without secrets or outputs, and read again by the collector."""

import json
import zipfile

import pytest

from course_staff.collecting import collect, slicing
from course_staff.notebooks import store as notebooks
from course_utils import __main__ as commands
from course_utils import checks
from course_utils.errors import CourseError
from course_utils.records import submit

ANSWER = 'check("00.2", [{"role": "user"}])'


def saved(path, *sources, output="secret output"):
    """A notebook as JupyterLab saves it."""
    shown = [{"output_type": "stream", "name": "stdout", "text": [output]}]
    cells = [
        {"cell_type": "code", "source": [one], "outputs": shown, "metadata": {}, "id": str(n)}
        for n, one in enumerate(sources)
    ]
    path.write_text(json.dumps({"cells": cells, "metadata": {"x": 1}}), encoding="utf-8")
    return path


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A learner's folder with two lessons, their progress, and a notebook that is none."""
    (tmp_path / "notebooks").mkdir()
    saved(tmp_path / "notebooks" / "00_start_here.ipynb", "x = 1", ANSWER)
    saved(tmp_path / "notebooks" / "99_notes.ipynb", "print('my own')")
    monkeypatch.setenv("COURSE_STATIC", "0")
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_packed_is_what_is_collected(desk, capsys):
    """A learner who hands in and the instructor who collects: the code, the tries, the name."""
    for _ in range(3):
        checks.check("00.2", [{"role": "user"}])
    assert commands.main(["submit", "--name", "Ada Lovelace"]) == 0
    assert "open-llms-Ada-Lovelace.zip holds 00_start_here.ipynb" in capsys.readouterr().out
    (one,) = (
        found for found in collect.found(desk) if found.file.endswith(".zip/00_start_here.ipynb")
    )
    assert (one.learner, one.tries) == ("Ada-Lovelace", {"00.2": 3})
    assert slicing.code_cells(one.raw()) == ["x = 1", ANSWER]


def test_outputs_stay_at_home(desk):
    """A learner whose outputs show a private text hands in code alone."""
    path, names = submit.pack(name="ada")
    with zipfile.ZipFile(path) as file:
        everything = b"".join(map(file.read, file.namelist()))
    assert names == ["00_start_here.ipynb"]
    assert b"secret output" not in everything and b"check(" in everything


def test_the_same_work_gives_the_same_file(desk):
    """A learner who packs twice hands in the same, so that a platform sees no late change."""
    first = submit.pack(name="ada")[0].read_bytes()
    assert submit.pack(name="ada")[0].read_bytes() == first


@pytest.mark.parametrize("key", ["sk-" + "a" * 30, "hf_" + "b" * 30])
def test_a_key_is_not_handed_in(desk, key):
    """A learner who pasted their key into a cell is told before anyone else reads it."""
    path = saved(desk / "mine.ipynb", f'key = "{key}"', ANSWER)
    with pytest.raises(CourseError, match="A key stands in mine.ipynb") as error:
        submit.pack([path], "ada")
    assert key not in str(error.value)
    assert not list(desk.glob("*.zip"))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"cells": [3]}', "\udc80"])
def test_a_file_that_is_no_notebook_is_a_sentence(desk, text):
    """A learner who names the wrong file."""
    path = desk / "x.ipynb"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CourseError, match="x.ipynb cannot be read as a notebook"):
        submit.pack([path], "ada")


def test_nothing_to_hand_in_is_a_sentence(tmp_path, monkeypatch):
    """A learner in another folder than the course's."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CourseError, match="nothing to hand in here"):
        submit.pack()


@pytest.mark.parametrize("name", ["../../x", "..", "a/b\\c", "Zoë  Ångström", "con."])
def test_a_name_is_never_a_path(desk, name):
    """A learner with any name: the file lands in their own folder."""
    if not name.strip("./"):
        with pytest.raises(CourseError, match="Your name is missing"):
            submit.pack(name=name)
        return
    path, _ = submit.pack(name=name)
    assert path.parent == desk and path.is_file()


@pytest.mark.parametrize("path", notebooks.lessons(), ids=notebooks.key)
def test_every_lesson_can_be_handed_in(path, tmp_path, monkeypatch):
    """A learner of any lesson: its exercises are found by who packs and by who collects."""
    monkeypatch.chdir(tmp_path)
    packed, _ = submit.pack([path], "ada")
    (one,) = collect.found(tmp_path)
    found = slicing.keys(slicing.code_cells(one.raw()))
    assert found == set(checks.lesson(path.name[:2]).EXERCISES)
