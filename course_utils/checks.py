"""Exercises that check themselves, offline: `check`, `hint`, `quiz`, `progress`.

What is asked and what counts as right stands in `course_utils/exercises/lesson_NN.py`, one module
a lesson, as `EXERCISES` and `QUIZ`. What a learner has done is kept in one file in their home
folder, shared by every copy of the course there. This module knows no model and no notebook.
"""

import html
import importlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils import settings
from course_utils.errors import CourseError

LETTERS = "abcdef"
NOT_ANSWERED = "not answered yet"
FILE = ".open_llms_progress.json"
EXERCISES = Path(__file__).parent / "exercises"
LESSONS = tuple(sorted(path.stem[-2:] for path in EXERCISES.glob("lesson_[0-9][0-9].py")))


class Wrong(Exception):
    """Raised by an exercise's test: says what is wrong, not what would be right."""


@dataclass(frozen=True)
class Exercise:
    """One exercise: `test(answer)` returns a remark on success and raises `Wrong` otherwise."""

    name: str
    test: Callable[[Any], str | None]
    hints: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """One question of a self-test.

    `choices` are pairs: what can be chosen, and why that is right or wrong. `right` is the index
    of the right one. What is said of a wrong choice does not name the right one.
    """

    text: str
    choices: tuple[tuple[str, str], ...]
    right: int


def lesson(number: str) -> Any:
    """The module with a lesson's exercises and quiz."""
    if number not in LESSONS:
        raise CourseError(
            f"There is no lesson {number!r}.",
            "" if isinstance(number, str) else "A lesson is named by text in quotes.",
            f'Lessons are {", ".join(LESSONS)}; write "{LESSONS[0]}", for example.',
        )
    return importlib.import_module(f"course_utils.exercises.lesson_{number}")


def exercise(key: str) -> Exercise:
    """The exercise with a key like "02.1"."""
    if not isinstance(key, str):
        raise CourseError(
            f"There is no exercise {key!r}.",
            "An exercise is named by text in quotes.",
            'Write "00.1", for example, quotes included.',
        )
    number, _, _ = key.partition(".")
    found = lesson(number).EXERCISES
    if key not in found:
        raise CourseError(f"There is no exercise {key!r}.", "", f"There are {', '.join(found)}.")
    return found[key]


def untouched(answer: Any) -> bool:
    """Whether the starter was left as it is.

    That is `...`, None, a function that does nothing but return `...`, or a list, tuple or dict
    that still holds one of these.
    """
    if answer is ... or answer is None:
        return True
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, list | tuple):
        parts = (part for part in answer if part is ... or isinstance(part, dict) or callable(part))
        return any(map(untouched, parts))
    code = getattr(answer, "__code__", None)
    return (
        code is not None
        and set(code.co_consts) <= {..., None, answer.__doc__}
        and ... in code.co_consts
    )


def check(key: str, answer: Any) -> None:
    """Print whether `answer` solves exercise `key`, and remember it when it does."""
    task = exercise(key)
    head = f"Exercise {key}"
    if untouched(answer):
        print(
            f"{head}: {NOT_ANSWERED}. Replace the ... and run the cell again; hint({key!r}) helps."
        )
        return
    try:
        remark = task.test(answer)
    except Wrong as wrong:
        print(f"{head}: not yet. {wrong} (hint({key!r}) helps.)")
    except Exception as error:
        print(f"{head}: your answer stopped with {type(error).__name__}: {error}")
    else:
        print(f"{head}: correct. {remark or ''}".rstrip())
        _remember(key)


def hint(key: str, number: int | None = None) -> None:
    """Print the next hint for exercise `key` (or hint `number`, counted from 1)."""
    hints = exercise(key).hints
    seen = _read().get("hints", {}).get(key, 0)
    if number is None:
        number = min(seen + 1, len(hints))
    if not isinstance(number, int) or not 1 <= number <= len(hints):
        raise CourseError(
            f"Exercise {key} has {len(hints)} hints; {number!r} is none of them.",
            next_step=f'Write hint("{key}") for the next one, or hint("{key}", 1) for the first.',
        )
    print(f"Hint {number} of {len(hints)} for {key}: {hints[number - 1]}")
    _change(lambda kept: kept["hints"].update({key: max(seen, number)}))


def quiz(number: str, answers: str | None = None) -> Any:
    """The self-test of lesson `number`: questions to click on, or as text.

    Args:
        number: like "03".
        answers: your choices as letters, like "bacd", where buttons cannot be shown.

    Returns:
        The questions as widgets; None where they are printed.
    """
    questions = lesson(number).QUIZ
    if answers is not None:
        return _mark(number, questions, answers)
    if not settings.static():
        return _clickable(questions)
    for n, question in enumerate(questions, 1):
        print(f"{n}. {question.text}")
        for letter, (choice, _) in zip(LETTERS, question.choices, strict=False):
            print(f"   {letter}) {choice}")
    print(f'Answer with quiz("{number}", "...") and one letter for each question.')
    return None


def _mark(number: str, questions: list[Question], answers: Any) -> None:
    """Print for each answer whether it is right, and why."""
    letters = re.findall("[a-z]", str(answers).lower())  # of one text or of a list
    if len(letters) != len(questions) or not all(
        letter in LETTERS[: len(question.choices)]
        for letter, question in zip(letters, questions, strict=True)
    ):
        raise CourseError(
            f"Self-test {number} takes {len(questions)} letters, one for each question.",
            f"It got {answers!r}.",
            f'Write for example quiz("{number}", "{"a" * len(questions)}").',
        )
    right = 0
    for n, (question, letter) in enumerate(zip(questions, letters, strict=True), 1):
        chosen = LETTERS.index(letter)
        right += chosen == question.right
        print(f"{n}. {_judged(question, chosen)}")
    print(f"{right} of {len(questions)} right.")


def _judged(question: Question, chosen: int) -> str:
    """Whether a choice is right, and why."""
    return f"{'Right' if chosen == question.right else 'No'}. {question.choices[chosen][1]}"


def _clickable(questions: list[Question]) -> Any:
    """The questions with a button for each choice, which says at once whether it is right, and why.

    Once each has an answer, the total: a question counts as right if its first answer was.
    Buttons, not RadioButtons: those want arrow keys, which JupyterLab takes for itself.
    """
    import ipywidgets as widgets

    first: dict[int, bool] = {}
    total = widgets.HTML()

    def block(n: int, question: Question) -> Any:
        verdict = widgets.HTML()

        def judge(chosen: int) -> None:
            verdict.value = _spoken(f"{LETTERS[chosen]}) {_judged(question, chosen)}")
            first.setdefault(n, chosen == question.right)
            if len(first) == len(questions):
                right = sum(first.values())
                total.value = _spoken(f"{right} of {len(questions)} right at the first answer.")

        buttons = []
        for chosen, (choice, _) in enumerate(question.choices):
            button = widgets.Button(
                description=f"{LETTERS[chosen]}) {choice}",
                layout=widgets.Layout(width="auto", height="auto", max_width="100%"),
            )
            button.add_class("course-choice")
            button.on_click(lambda _, chosen=chosen: judge(chosen))
            buttons.append(button)
        asked = widgets.HTML(f"<b>{n}. {html.escape(question.text)}</b>")
        column = widgets.Layout(align_items="flex-start")
        return widgets.VBox([asked, *buttons, verdict], layout=column)

    blocks = [block(n, question) for n, question in enumerate(questions, 1)]
    # a button's text stays on one line by default, and what does not fit is cut off
    wraps = "<style>.course-choice{white-space:normal;text-align:left;line-height:1.6}</style>"
    return widgets.VBox([*blocks, total, widgets.HTML(wraps)])


def _spoken(text: str) -> str:
    """A text that a screen reader says as soon as it changes."""
    return f'<div role="status">{html.escape(text)}</div>'


# -- the learner's own file --------------------------------------------------------------------


def progress_file() -> Path:
    """Where progress is kept: `COURSE_PROGRESS`, or a file in the learner's home folder.

    Raises:
        OSError: this account has no home folder, or a device or folder is in the file's place.
    """
    try:
        path = Path(os.environ.get("COURSE_PROGRESS") or f"~/{FILE}").expanduser().resolve()
    except RuntimeError as error:
        raise OSError(0, f"{error} Set COURSE_PROGRESS to a file.") from None
    if path.exists() and not path.is_file():
        raise OSError(0, f"{_short(path)} is no ordinary file")
    return path


def _load(path: Path) -> tuple[dict[str, Any], bool]:
    """(what the file holds, whether all of it was understood); raises OSError.

    `solved` is a list of keys and `hints` counts by key; what else is in it belongs to another
    version of the course and is handed back as it is.
    """
    found: Any = None if path.exists() else {}
    if found is None:
        with suppress(ValueError, RecursionError):
            found = json.loads(path.read_text(encoding="utf-8"))
    kept = {"solved": [], "hints": {}, **(found if isinstance(found, dict) else {})}
    solved, hints = kept["solved"], kept["hints"]
    kept["solved"] = [key for key in solved if isinstance(key, str)] if type(solved) is list else []
    counts = hints.items() if isinstance(hints, dict) else ()
    kept["hints"] = {key: n for key, n in counts if isinstance(n, int) and n >= 0}
    return kept, isinstance(found, dict) and (kept["solved"], kept["hints"]) == (solved, hints)


def _read() -> dict[str, Any]:
    """The learner's progress; empty where there is none or the file is not readable.

    Also empty while a program runs the notebook: what is stored must not depend on who ran it.
    """
    if not settings.static():
        with suppress(OSError):
            return _load(progress_file())[0]
    return {"solved": [], "hints": {}}


def _change(change: Callable[[dict[str, Any]], Any]) -> None:
    """Apply `change` to what the learner's file holds; whole or not at all. Not while static.

    Several notebooks may do so at once: each waits for its turn and reads what the others wrote.
    What cannot be read is kept beside it under another name.
    """
    if settings.static():
        return
    import filelock

    try:
        path = progress_file()
        with filelock.FileLock(path.with_name(f"{path.name}.lock"), timeout=20):
            kept, understood = _load(path)
            if not understood:
                _set_aside(path)
            change(kept)
            _replace(path, json.dumps(kept, indent=1))
    except (OSError, NotImplementedError) as error:  # a time-out is an OSError too
        why = getattr(error, "strerror", None) or str(error)
        print(f"(Progress could not be saved: {why}. Your answers are not affected.)")


def _set_aside(path: Path) -> None:
    """Keep a copy of a file that is not understood, under a name that is still free."""
    content = path.read_bytes()
    if not content.strip():
        return
    n = 1
    while (aside := path.with_name(f"{path.name}.unreadable-{n}")).exists():
        n += 1
    aside.write_bytes(content)
    print(f"(Not all of your progress could be read. The file as it was: {_short(aside)})")


def _replace(path: Path, text: str) -> None:
    """Write a file anew, so that a full disk or an interrupt leaves the old one."""
    handle, fresh = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".new")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(fresh).replace(path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise


def _remember(key: str) -> None:
    """Note that an exercise is solved."""
    _change(lambda kept: kept.update(solved=sorted({*kept["solved"], key})))


def _short(path: Path) -> str:
    """A path as a learner writes it, from ~ where it is below the home folder."""
    with suppress(ValueError, RuntimeError):
        return f"~/{path.relative_to(Path.home()).as_posix()}"
    return str(path)


def progress() -> None:
    """Print what is done in every lesson, and where that is kept."""
    solved = set(_read()["solved"])
    for number in LESSONS:
        keys = list(lesson(number).EXERCISES)
        marks = " ".join(f"{key} {'done' if key in solved else '-'}" for key in keys)
        print(f"Lesson {number}: {sum(k in solved for k in keys)} of {len(keys)}   {marks}")
    try:
        path = progress_file()
        _load(path)
        print(f"Kept in {_short(path)}, for every copy of the course on this account.")
    except OSError as error:
        print(f"(Progress could not be read: {error.strerror or error}.)")
