"""Exercises that check themselves: what is said, and what is remembered."""

import html
import json
import math
from collections import Counter

import pytest

from course_utils import checks
from course_utils.errors import CourseError

LESSONS = [
    n
    for n in checks.LESSONS
    if (checks.Path(checks.__file__).parent / "exercises" / f"lesson_{n}.py").exists()
]


@pytest.fixture
def learner(monkeypatch, tmp_path):
    """A learner with an empty progress file of their own."""
    monkeypatch.setenv("COURSE_STATIC", "0")
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))
    return tmp_path / "progress.json"


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
    """A learner reads what is wrong, not what would be right."""
    checks.check("00.2", [{"role": "user", "content": "Nice staff."}])
    out = capsys.readouterr().out
    assert out.startswith("Exercise 00.2: not yet.")
    assert not learner.exists()


def test_an_answer_that_crashes_ends_in_one_line(learner, capsys):
    """A learner's typo inside a function gives a message, not the checker's traceback."""
    checks.check("00.3", lambda reviews: reviews.no_such_thing)
    out = capsys.readouterr().out
    assert "your answer stopped with AttributeError" in out
    assert out.count("\n") == 1


def test_a_right_answer_is_remembered(learner, capsys):
    """A learner finds their progress again tomorrow."""
    right = [
        {"role": "system", "content": "Answer with one word."},
        {"role": "user", "content": "Nice staff."},
    ]
    checks.check("00.2", right)
    checks.check("00.2", right)
    assert "Exercise 00.2: correct." in capsys.readouterr().out
    assert json.loads(learner.read_text())["solved"] == ["00.2"]
    checks.progress()
    assert "Lesson 00: 1 of" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"', "\x00\xff", '{"solved": 3}'])
def test_a_damaged_progress_file_loses_no_answer(learner, content, capsys):
    """A learner whose file was cut off goes on; the file is made new."""
    learner.write_text(content, encoding="latin-1")
    checks.progress()
    checks.hint("00.2")
    checks.check("00.2", ...)
    assert "Hint 1 of 3" in capsys.readouterr().out


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
    ],
)
def test_a_wrong_key_names_the_right_ones(learner, call):
    """A learner who mistypes an exercise's number reads which ones there are."""
    with pytest.raises(CourseError) as caught:
        call()
    assert caught.value.next_step


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
    """A learner who clicks a choice reads at once whether it is right."""
    box = checks.quiz("00")
    question = checks.lesson("00").QUIZ[0]
    _, *choices, verdict = box.children[0].children
    assert len(choices) == len(question.choices)
    for n, (row, (text, why)) in enumerate(zip(choices, question.choices, strict=True)):
        button, label = row.children
        assert html.unescape(label.value) == text
        button.click()
        right = "Right" if n == question.right else "No"
        assert f"{checks.LETTERS[n]}) {right}. {why}" in html.unescape(verdict.value)


@pytest.mark.parametrize("number", LESSONS)
def test_questions_and_hints_are_well_made(number):
    """A learner cannot guess a self-test from the place or the length of the right choice."""
    module = checks.lesson(number)
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
