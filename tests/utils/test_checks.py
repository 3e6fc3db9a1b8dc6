"""Exercises that check themselves: what is said, and what is remembered."""

import html
import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from course_utils import checks
from course_utils.errors import CourseError

ROOT = Path(checks.__file__).parents[1]


@pytest.fixture
def learner(monkeypatch, tmp_path):
    """A learner with an empty progress file of their own."""
    monkeypatch.setenv("COURSE_STATIC", "0")
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))
    return tmp_path / "progress.json"


RIGHT = [
    {"role": "system", "content": "Answer with one word."},
    {"role": "user", "content": "Nice staff."},
]


def starter(text):
    return ...


def starter_with_docstring(text):
    """Say what it does."""
    return ...


@pytest.mark.parametrize(
    "answer",
    [
        ...,
        None,
        [...],
        (1, ...),
        {"role": ...},
        [{"role": "system", "content": ...}],
        starter,
        starter_with_docstring,
        lambda x: ...,
        (starter, len),
    ],
)
def test_an_untouched_starter_is_not_wrong(answer, capsys):
    """A learner who runs the whole notebook first is not told that they failed."""
    checks.check("00.2", answer)
    assert capsys.readouterr().out.startswith("Exercise 00.2: not answered yet.")


def slices_a_tensor(x):
    return x[..., -1]


@pytest.mark.parametrize("answer", [0, "", [], {}, False, slices_a_tensor, [0], "..."])
def test_an_answer_is_an_answer_even_when_it_is_empty(answer):
    """A learner whose right answer is 0, or indexes with an ellipsis, is not ignored."""
    assert not checks.untouched(answer)


def test_a_wrong_answer_is_explained_and_not_remembered(learner, capsys):
    """A learner reads what is wrong, not what would be right; that they tried is counted."""
    for _ in range(2):
        checks.check("00.2", [{"role": "user", "content": "Nice staff."}])
    out = capsys.readouterr().out
    assert out.startswith("Exercise 00.2: not yet.")
    kept = json.loads(learner.read_text())
    assert kept["solved"] == [] and kept["tries"] == {"00.2": 2}


def test_an_untouched_starter_is_no_try(learner, capsys):
    """A learner who only runs all cells has tried nothing yet."""
    checks.check("00.2", ...)
    assert not learner.exists()


def test_an_answer_that_crashes_ends_in_one_line(learner, capsys):
    """A learner's typo inside a function gives a message, not the checker's traceback."""
    checks.check("00.3", lambda reviews: reviews.no_such_thing)
    out = capsys.readouterr().out
    assert "your answer stopped with AttributeError" in out
    assert out.count("\n") == 1


def test_a_right_answer_is_remembered(learner, capsys):
    """A learner finds their progress again tomorrow."""
    checks.check("00.2", RIGHT)
    checks.check("00.2", RIGHT)
    assert "Exercise 00.2: correct." in capsys.readouterr().out
    assert json.loads(learner.read_text())["solved"] == ["00.2"]
    checks.progress()
    assert "Lesson 00: 1 of" in capsys.readouterr().out


ODD = [
    "",
    "{",
    "[]",
    '"x"',
    "\x00\xff",
    "[" * 100_000,
    '{"solved": 3}',
    '{"solved": "00.1"}',
    '{"solved": [["00.1"], null, 3, "00.1"]}',
    '{"hints": {"00.2": "2", "00.1": -5}}',
    '{"hints": [], "solved": {}}',
]


@pytest.mark.parametrize("content", ODD)
def test_a_damaged_progress_file_stops_nothing_and_is_kept(learner, content, capsys):
    """A learner whose file was cut off goes on, and nothing is thrown away."""
    learner.write_text(content, encoding="latin-1")
    before = learner.read_bytes()
    checks.progress()
    checks.hint("00.2")
    checks.check("00.2", RIGHT)
    out = capsys.readouterr().out
    assert "Hint 1 of 3" in out and "correct" in out
    assert "00.2" in json.loads(learner.read_text())["solved"]
    kept = [path.read_bytes() for path in learner.parent.glob("*.unreadable-*")]
    assert kept == ([before] if content else [])
    assert "The file as it was" in out or not content


def test_a_second_damaged_file_does_not_replace_the_first(learner):
    """A learner with two accidents finds both files."""
    for content in ("{1", "{2"):
        learner.write_text(content)
        checks.hint("00.1")
    kept = {path.read_text() for path in learner.parent.glob("*.unreadable-*")}
    assert kept == {"{1", "{2"}


def test_what_a_newer_version_noted_is_kept(learner):
    """A learner who goes back to an older copy of the course for an hour loses nothing."""
    newer = {"version": 2, "solved": ["09.1"], "quiz": {"00": "abc"}, "hints": {"09.1": 2}}
    learner.write_text(json.dumps(newer))
    checks.check("00.2", RIGHT)
    checks.hint("00.1")
    wanted = {**newer, "solved": ["00.2", "09.1"], "hints": {"09.1": 2, "00.1": 1}}
    wanted["tries"] = {"00.2": 1}
    assert json.loads(learner.read_text()) == wanted
    assert not list(learner.parent.glob("*.unreadable-*"))


def test_two_notebooks_at_once_lose_nothing(learner):
    """A learner with two lessons open: each notebook keeps what the other wrote."""
    code = (
        "import sys\nfrom course_utils import checks\n"
        "right = [{'role': 'system', 'content': 'Answer with one word.'},\n"
        "         {'role': 'user', 'content': 'Nice staff.'}]\n"
        "task = checks.exercise('00.2')\nprint('ready', flush=True)\nsys.stdin.readline()\n"
        "for n in range(20):\n"
        "    key = f'00.{sys.argv[1]}{n}'\n"
        "    checks.lesson('00').EXERCISES[key] = task\n"
        "    checks.check(key, right)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, name],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    for one in both:
        assert one.stdout.readline() == "ready\n"
    for one in both:
        one.stdin.write("go\n")
        one.stdin.flush()
    for one in both:
        said, _ = one.communicate(timeout=60)
        assert said.count("correct") == 20 and "could not" not in said
    assert len(json.loads(learner.read_text())["solved"]) == 40


@pytest.mark.skipif(os.name == "nt", reason="links take rights on Windows")
def test_a_link_stays_a_link(learner):
    """A learner who keeps such files elsewhere, linked from home, still has the link afterwards."""
    real = learner.parent / "real.json"
    real.write_text('{"solved": ["01.1"]}')
    learner.symlink_to(real)
    checks.check("00.2", RIGHT)
    assert learner.is_symlink()
    assert json.loads(real.read_text())["solved"] == ["00.2", "01.1"]


def test_only_ordinary_files_are_written(learner, monkeypatch, capsys):
    """A learner with an odd setting, and root in a container: no device, pipe or folder is lost."""
    folder = learner.parent / "folder"
    folder.mkdir()
    places = [folder]
    if os.name != "nt":
        os.mkfifo(learner.parent / "pipe")
        places += [learner.parent / "pipe", Path("/dev/null")]
    for place in places:
        monkeypatch.setenv("COURSE_PROGRESS", str(place))
        before = place.stat().st_mode
        checks.hint("00.1")
        checks.progress()
        out = capsys.readouterr().out
        assert "is no ordinary file" in out and "Hint 1 of 3" in out
        assert place.stat().st_mode == before


def test_a_full_disk_leaves_the_old_file(learner, monkeypatch, capsys):
    """A learner whose disk is full in the middle keeps what was there, and nothing half-written."""
    learner.write_text('{"solved": ["01.1"]}')

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checks.Path, "replace", full)
    checks.check("00.2", RIGHT)
    out = capsys.readouterr().out
    assert "correct" in out and "could not be saved: No space left on device" in out
    assert learner.read_text() == '{"solved": ["01.1"]}'
    assert not list(learner.parent.glob("*.new"))


def test_an_account_without_a_home_folder(monkeypatch, capsys):
    """A learner in a bare container: answers are checked all the same."""
    monkeypatch.setenv("COURSE_STATIC", "0")
    monkeypatch.delenv("COURSE_PROGRESS", raising=False)

    def homeless(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(checks.Path, "home", homeless)
    monkeypatch.setattr(checks.Path, "expanduser", homeless)
    checks.hint("00.1")
    checks.progress()
    assert capsys.readouterr().out.count("Set COURSE_PROGRESS to a file") == 2


def test_progress_says_where_it_is_kept(learner, monkeypatch, capsys):
    """A learner with a new clone wonders why exercises are done already; or wants to start anew."""
    monkeypatch.setattr(checks.Path, "home", lambda: learner.parent)
    checks.progress()
    assert "Kept in ~/progress.json, for every copy of the course" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path, capsys):
    """A learner on a locked-down machine still gets answers checked."""
    monkeypatch.setenv("COURSE_STATIC", "0")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "file" / "progress.json"))
    checks.hint("00.1")
    assert "Progress could not be saved" in capsys.readouterr().out


def test_hints_go_deeper_and_stop(learner, capsys):
    """A learner who asks again gets the next hint, and the last one as often as needed."""
    for _ in range(4):
        checks.hint("00.1")
    lines = capsys.readouterr().out.splitlines()
    assert [line[:11] for line in lines] == [
        "Hint 1 of 3",
        "Hint 2 of 3",
        "Hint 3 of 3",
        "Hint 3 of 3",
    ]
    checks.hint("00.1", 1)
    assert capsys.readouterr().out.startswith("Hint 1 of 3")


def test_a_program_leaves_no_trace(monkeypatch, tmp_path, capsys):
    """A teacher who validates the course does not solve it for the learner."""
    monkeypatch.setenv("COURSE_STATIC", "1")
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))
    checks.hint("00.1")
    checks.hint("00.1")
    assert capsys.readouterr().out.count("Hint 1 of 3") == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "call",
    [
        lambda: checks.check("00.9", 1),
        lambda: checks.hint("99.1"),
        lambda: checks.quiz("7"),
        lambda: checks.hint("00.1", 4),
        lambda: checks.quiz("00", "zz"),
        lambda: checks.quiz("00", "a"),
        lambda: checks.hint("00.1", 0),
        lambda: checks.hint("00.1", -1),
        lambda: checks.hint("00.1", "2"),
        lambda: checks.hint("00.1", 1.5),
        lambda: checks.hint(0.1),
        lambda: checks.hint(...),
        lambda: checks.check(0.1, 1),
        lambda: checks.check(None, 1),
        lambda: checks.check("", 1),
        lambda: checks.quiz(0),
        lambda: checks.quiz(["00"]),
        lambda: checks.quiz("00", 4),
        lambda: checks.quiz("00", ["a", None]),
        lambda: checks.quiz("00", [1, 2, 3, 4]),
        lambda: checks.quiz("00", {}),
    ],
)
def test_a_wrong_key_names_the_right_ones(learner, call):
    """A learner who mistypes a name, or leaves out the quotes, reads how it is written."""
    with pytest.raises(CourseError) as caught:
        call()
    assert '"' in caught.value.next_step or "There are" in caught.value.next_step


def test_the_self_test_as_text_shows_no_answer(monkeypatch, capsys):
    """A learner who reads the notebook on the web can think before looking."""
    monkeypatch.setenv("COURSE_STATIC", "1")
    checks.quiz("00")
    out = capsys.readouterr().out
    for question in checks.lesson("00").QUIZ:
        assert question.text in out
        for choice, why in question.choices:
            assert choice in out and why not in out


def test_the_self_test_marks_letters(learner, capsys):
    """A learner where buttons do not work answers with letters."""
    questions = checks.lesson("00").QUIZ
    right = "".join(checks.LETTERS[q.right] for q in questions)
    checks.quiz("00", list(right))
    assert f"{len(questions)} of {len(questions)} right." in capsys.readouterr().out
    checks.quiz("00", " ".join(right).upper())
    out = capsys.readouterr().out
    assert f"{len(questions)} of {len(questions)} right." in out
    first = questions[0]
    assert f"1. Right. {first.choices[first.right][1]}" in out
    wrong = ("b" if right[0] == "a" else "a") + right[1:]
    checks.quiz("00", wrong)
    out = capsys.readouterr().out
    assert f"{len(questions) - 1} of" in out
    assert f"1. No. {first.choices[checks.LETTERS.index(wrong[0])][1]}" in out
    assert first.choices[first.right][1] not in out


def test_the_self_test_can_be_clicked(learner):
    """A learner clicks anywhere on an answer and reads at once whether it is right."""
    question = checks.lesson("00").QUIZ[0]
    _, *choices, verdict = checks.quiz("00").children[0].children
    assert len(choices) == len(question.choices)
    for n, (button, (text, why)) in enumerate(zip(choices, question.choices, strict=True)):
        assert button.description == f"{checks.LETTERS[n]}) {text}"
        button.click()
        right = "Right" if n == question.right else "No"
        assert f"{checks.LETTERS[n]}) {right}. {why}" in html.unescape(verdict.value)


def test_the_self_test_counts_first_answers(learner):
    """A learner who has answered everything reads a total of the first answers."""
    questions = checks.lesson("00").QUIZ
    *blocks, total, _ = checks.quiz("00").children
    for n, (question, block) in enumerate(zip(questions, blocks, strict=True)):
        assert total.value == ""
        buttons = block.children[1:-1]
        if n == 0:
            buttons[(question.right + 1) % 3].click()
        buttons[question.right].click()
    assert f"{len(questions) - 1} of {len(questions)} right" in total.value


def test_lessons_are_those_whose_exercises_exist():
    """A maintainer who adds a lesson's exercises finds them in `progress` without another list."""
    names = [path.stem for path in (ROOT / "course_utils" / "exercises").glob("lesson_??.py")]
    assert sorted(names) == [f"lesson_{number}" for number in checks.LESSONS]
    assert all(checks.lesson(number).EXERCISES for number in checks.LESSONS)


@pytest.mark.parametrize("number", checks.LESSONS)
def test_questions_and_hints_are_well_made(number):
    """A learner cannot guess a self-test from the place or the length of the right choice."""
    module = checks.lesson(number)
    assert 3 <= len(module.EXERCISES) <= 5 and 4 <= len(module.QUIZ) <= 6
    places, lengths = Counter(), Counter()
    for question in module.QUIZ:
        texts = [text for text, _ in question.choices]
        assert 0 <= question.right < len(set(texts)) == len(texts) == 3
        assert all(text and why for text, why in question.choices)
        assert len({why for _, why in question.choices}) == 3
        places[question.right] += 1
        lengths[sum(len(text) > len(texts[question.right]) for text in texts)] += 1
    most = math.ceil(len(module.QUIZ) / 2)
    assert set(places) == {0, 1, 2} and max(places.values()) <= most, f"right at {places}"
    assert set(lengths) == {0, 1, 2} and max(lengths.values()) <= most, f"as long as {lengths}"
    for key, task in module.EXERCISES.items():
        assert key.startswith(f"{number}."), key
        assert len(set(task.hints)) == len(task.hints) == 3
