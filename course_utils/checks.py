"""Exercises that check themselves, offline: `check`, `hint`, `quiz`, `progress`.

What is asked and what counts as right stands in `course_utils/exercises/lesson_NN.py`, one module
a lesson, as `EXERCISES` and `QUIZ`. What a learner has done is kept in a file of their own.
"""

import html
import importlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from course_utils import settings
from course_utils.errors import CourseError

LETTERS = "abcdef"
NOT_ANSWERED = "not answered yet"
LESSONS = ("00", "01", "02", "03", "04", "05")


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


@cache
def lesson(number: str) -> Any:
    """The module with a lesson's exercises and quiz."""
    if number not in LESSONS:
        raise CourseError(
            f"There is no lesson {number!r}.", "", f"Lessons are {', '.join(LESSONS)}."
        )
    return importlib.import_module(f"course_utils.exercises.lesson_{number}")


def exercise(key: str) -> Exercise:
    """The exercise with a key like "02.1"."""
    number, _, _ = key.partition(".")
    found = lesson(number).EXERCISES
    if key not in found:
        raise CourseError(f"There is no exercise {key!r}.", "", f"There are {', '.join(found)}.")
    return found[key]


def untouched(answer: Any) -> bool:
    """Whether the starter was left as it is.

    That is `...`, None, a list, tuple or dict with a `...` still in it, or a function that does
    nothing but return `...`.
    """
    if answer is ... or answer is None:
        return True
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, list | tuple):
        return any(part is ... or isinstance(part, dict) and untouched(part) for part in answer)
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
    number = number or min(seen + 1, len(hints))
    if not 1 <= number <= len(hints):
        raise CourseError(
            f"Exercise {key} has {len(hints)} hints, not {number}.", "", "Pick one of them."
        )
    print(f"Hint {number} of {len(hints)} for {key}: {hints[number - 1]}")
    _write({"hints": {**_read().get("hints", {}), key: max(seen, number)}})


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
        return _mark(number, questions, answers.replace(" ", "").replace(",", "").lower())
    if not settings.static():
        return _clickable(questions)
    for n, question in enumerate(questions, 1):
        print(f"{n}. {question.text}")
        for letter, (choice, _) in zip(LETTERS, question.choices, strict=False):
            print(f"   {letter}) {choice}")
    print(f'Answer with quiz("{number}", "...") and one letter for each question.')
    return None


def _mark(number: str, questions: list[Question], answers: str) -> None:
    """Print for each answer whether it is right, and why."""
    if len(answers) != len(questions) or not all(
        letter in LETTERS[: len(question.choices)]
        for letter, question in zip(answers, questions, strict=True)
    ):
        raise CourseError(
            f"Self-test {number} takes {len(questions)} letters, one for each question.",
            f"It got {answers!r}.",
            f'Write for example quiz("{number}", "{"a" * len(questions)}").',
        )
    right = 0
    for n, (question, letter) in enumerate(zip(questions, answers, strict=True), 1):
        chosen = LETTERS.index(letter)
        right += chosen == question.right
        print(f"{n}. {_judged(question, chosen)}")
    print(f"{right} of {len(questions)} right.")


def _judged(question: Question, chosen: int) -> str:
    """Whether a choice is right, and why."""
    return f"{'Right' if chosen == question.right else 'No'}. {question.choices[chosen][1]}"


def _clickable(questions: list[Question]) -> Any:
    """The questions with a button for each choice, which says at once whether it is right, and why.

    Buttons, not RadioButtons: those want arrow keys, which JupyterLab takes for itself.
    """
    import ipywidgets as widgets

    blocks = []
    for n, question in enumerate(questions, 1):
        verdict = widgets.HTML()
        rows = [widgets.HTML(f"<b>{n}. {html.escape(question.text)}</b>")]
        for chosen, (choice, _) in enumerate(question.choices):
            letter = LETTERS[chosen]
            button = widgets.Button(
                description=letter, tooltip=choice, layout=widgets.Layout(width="40px")
            )

            def judge(
                _: object, question: Question = question, chosen: int = chosen, to: Any = verdict
            ) -> None:
                said = html.escape(f"{LETTERS[chosen]}) {_judged(question, chosen)}")
                to.value = f'<div role="status">{said}</div>'

            button.on_click(judge)
            rows.append(widgets.HBox([button, widgets.HTML(html.escape(choice))]))
        blocks.append(widgets.VBox([*rows, verdict]))
    return widgets.VBox(blocks)


# -- the learner's own file --------------------------------------------------------------------


def progress_file() -> Path:
    """Where progress is kept: `COURSE_PROGRESS`, or a file in the learner's home folder."""
    return Path(os.environ.get("COURSE_PROGRESS") or Path.home() / ".open_llms_progress.json")


def _read() -> dict[str, Any]:
    """The learner's progress; empty where there is none or the file is not readable.

    Also empty while a program runs the notebook: what is stored must not depend on who ran it.
    """
    if settings.static():
        return {}
    try:
        found = json.loads(progress_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    shapes = {"solved": list, "hints": dict}
    if not isinstance(found, dict):
        return {}
    return {key: found[key] for key, kind in shapes.items() if isinstance(found.get(key), kind)}


def _write(change: dict[str, Any]) -> None:
    """Merge `change` into the learner's file; whole or not at all. Not while run by a program."""
    if settings.static():
        return
    path = progress_file()
    try:
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({**_read(), **change}, indent=1), encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        print(f"(Progress could not be saved: {error.strerror}. Your answers are not affected.)")


def _remember(key: str) -> None:
    """Note that an exercise is solved."""
    _write({"solved": sorted({*_read().get("solved", []), key})})


def progress() -> None:
    """Print what is done in every lesson."""
    solved = set(_read().get("solved", []))
    for number in LESSONS:
        try:
            keys = list(lesson(number).EXERCISES)
        except ModuleNotFoundError:
            continue
        marks = " ".join(f"{key} {'done' if key in solved else '-'}" for key in keys)
        print(f"Lesson {number}: {sum(k in solved for k in keys)} of {len(keys)}   {marks}")
