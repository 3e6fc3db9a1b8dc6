"""Exercises that check themselves, offline: `check`, `hint`, `quiz`, `progress`.

What is asked and what counts as right stands in `course_utils/exercises/lesson_NN.py`, one module
a lesson, as `EXERCISES` and `QUIZ`. What a learner has done is kept by `records.kept`. This module
knows no model and no notebook.
"""

import html
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils import settings
from course_utils.errors import CourseError
from course_utils.patience import TooLong, limit
from course_utils.plots import told
from course_utils.records import kept

LETTERS = "abcdef"
NOT_ANSWERED = "not answered yet"
EXERCISES = Path(__file__).parent / "exercises"
LESSONS = tuple(sorted(path.stem[-2:] for path in EXERCISES.glob("lesson_[0-9][0-9].py")))


class Wrong(Exception):
    """Raised by an exercise's test: says what is wrong, not what would be right."""


@dataclass(frozen=True)
class Exercise:
    """One exercise: `test(answer)` returns a remark on success and raises `Wrong` otherwise.

    `patience` is how many seconds one call of the answer may take.
    """

    name: str
    test: Callable[[Any], str | None]
    hints: tuple[str, ...]
    patience: float = 10


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


class Watched:
    """A learner's function that remembers what it was called with, and whether it changed that."""

    def __init__(self, answer: Callable[..., Any], patience: float) -> None:
        self.answer, self.patience = answer, patience
        self.asked = self.changed = ""

    def __call__(self, *args: Any) -> Any:
        """Call it, for no longer than its patience."""
        before = [*map(_told, args)]
        self.asked = ", ".join(map(_short, args))
        with limit(self.patience):
            got = self.answer(*args)
        for was, arg in zip(before, args, strict=True):
            if _told(arg) != was and not self.changed:
                self.changed = f"Called with {self.asked}, it makes {_short(arg)} of what it got"
        return got


def _told(arg: Any) -> str:
    """What an argument holds, as text; where in memory its functions lie is not part of it."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(arg))


def _short(arg: Any) -> str:
    """An argument as a message shows it."""
    text = getattr(arg, "__name__", None) or repr(arg)
    if len(text) <= 80:
        return text
    plain = isinstance(arg, str | bytes | list | tuple | dict | int)
    return f"{text[:77]}..." if plain else f"a {type(arg).__name__}"


def judged(key: str, answer: Any, patience: float | None = None) -> tuple[bool | None, str]:
    """(whether `answer` solves exercise `key`, None where it is untouched; what to say of it).

    `patience` replaces the exercise's own: so many seconds for each call, 0 for no limit.
    """
    task = exercise(key)
    if untouched(answer):
        return None, f"{NOT_ANSWERED}."
    given = answer[0] if isinstance(answer, tuple) and answer else answer
    watched = Watched(given, task.patience if patience is None else patience)
    if callable(given):
        answer = (watched, *answer[1:]) if isinstance(answer, tuple) else watched
    try:
        remark = task.test(answer)
        if watched.changed:
            raise Wrong(f"{watched.changed}. Work on a copy.")
        return True, f"correct. {remark or ''}".rstrip()
    except Wrong as wrong:
        return False, f"not yet. {wrong}"
    except TooLong:
        seconds = f"stopped after {watched.patience:g} s"
        return (
            False,
            f"not yet. Called with {watched.asked}, it does not come to an end ({seconds}).",
        )
    except (Exception, SystemExit) as error:
        if not callable(given) and "not callable" in str(error):
            told = f"It should be a function, passed by its name alone; it is {_short(given)}"
            return False, f"not yet. {told}."
        called = f" (called with {watched.asked})" if watched.asked else ""
        return False, f"your answer stopped with {type(error).__name__}: {error}{called}"


def check(key: str, answer: Any) -> None:
    """Print whether `answer` solves exercise `key`, and note the try."""
    solved, said = judged(key, answer)
    if solved is None:
        said += f" Replace the ... and run the cell again; hint({key!r}) helps."
    elif said.startswith("not yet"):
        said += f" (hint({key!r}) helps.)"
    print(f"Exercise {key}: {said}")
    if solved is not None:
        kept.change(lambda found: _note_try(found, key, solved))


def hint(key: str, number: int | None = None) -> None:
    """Print the next hint for exercise `key` (or hint `number`, counted from 1)."""
    hints = exercise(key).hints
    seen = kept.read().get("hints", {}).get(key, 0)
    if number is None:
        number = min(seen + 1, len(hints))
    if not isinstance(number, int) or not 1 <= number <= len(hints):
        raise CourseError(
            f"Exercise {key} has {len(hints)} hints; {number!r} is none of them.",
            next_step=f'Write hint("{key}") for the next one, or hint("{key}", 1) for the first.',
        )
    print(f"Hint {number} of {len(hints)} for {key}: {hints[number - 1]}")
    kept.change(lambda found: found["hints"].update({key: max(seen, number)}))


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
            verdict.value = told(html.escape(f"{LETTERS[chosen]}) {_judged(question, chosen)}"))
            first.setdefault(n, chosen == question.right)
            if len(first) == len(questions):
                right = sum(first.values())
                total.value = told(f"{right} of {len(questions)} right at the first answer.")

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


# -- what is kept of it -------------------------------------------------------------------------


def _note_try(found: dict[str, Any], key: str, solved: bool) -> None:
    """Count a try, and note that an exercise is solved."""
    found["tries"][key] = found["tries"].get(key, 0) + 1
    if solved:
        found["solved"] = sorted({*found["solved"], key})


def progress() -> None:
    """Print what is done in every lesson, and where that is kept."""
    solved = set(kept.read()["solved"])
    for number in LESSONS:
        keys = list(lesson(number).EXERCISES)
        marks = " ".join(f"{key} {'done' if key in solved else '-'}" for key in keys)
        print(f"Lesson {number}: {sum(k in solved for k in keys)} of {len(keys)}   {marks}")
    try:
        path = kept.progress_file()
        kept.load(path)
        print(f"Kept in {kept.short(path)}, for every copy of the course on this account.")
    except OSError as error:
        print(f"(Progress could not be read: {error.strerror or error}.)")
