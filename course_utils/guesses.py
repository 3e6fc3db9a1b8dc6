"""Predictions before the answer: `guess` asks, `guessed` compares with what was measured.

    guess("tokens", "How many tokens has this sentence?", 9, 12, 15)
    ...
    guessed("tokens", len(ids))

A guess lives in the kernel alone and is never marked: it is there to be wrong with. While a program
runs the notebook both print text, the same for everybody.
"""

import html
from typing import Any

from course_utils import settings

_made: dict[str, Any] = {}


def guess(name: str, question: str, *options: Any) -> Any:
    """Ask for a prediction.

    Args:
        name: what `guessed` is called with; one name a question within a lesson.
        question: one sentence that a number or one of the options answers.
        *options: what can be chosen; none where a number is to be typed.

    Returns:
        Buttons or a box to type into; None where the question is printed.
    """
    if settings.static():
        choices = " / ".join(map(str, options)) or "a number"
        print(f"Your guess first: {question} ({choices})")
        return None
    import ipywidgets as widgets

    said = widgets.HTML(layout=widgets.Layout(min_width="8em"))

    def note(value: Any) -> None:
        _made[name] = value
        said.value = f'<div role="status">You say: {html.escape(str(value))}</div>'

    if not options:
        box = widgets.FloatText(value=_made.get(name, 0), layout=widgets.Layout(width="10em"))
        box.observe(lambda change: note(change["new"]), names="value")
        row = [box, said]
    else:
        row = []
        for option in options:
            button = widgets.Button(
                description=str(option), layout=widgets.Layout(width="auto", min_width="4em")
            )
            button.on_click(lambda _, option=option: note(option))
            row.append(button)
        row.append(said)
    if name in _made:
        note(_made[name])
    asked = widgets.HTML(f"<b>Your guess first:</b> {html.escape(question)}")
    return widgets.VBox([asked, widgets.HBox(row, layout=widgets.Layout(flex_flow="row wrap"))])


def guessed(name: str, measured: Any, unit: str = "") -> None:
    """Print what came out beside what the learner had guessed.

    Args:
        name: as in `guess`.
        measured: the answer: a number, or one of the options.
        unit: said behind numbers.
    """
    found = f"{measured}{' ' * bool(unit)}{unit}"
    if name not in _made:
        print(f"It is {found}. You made no guess.")
    elif _same(_made[name], measured):
        print(f"It is {found}, as you guessed.")
    else:
        made = _made[name]
        print(f"It is {found}. You guessed {f'{made:.10g}' if isinstance(made, float) else made}.")


def _same(guess: Any, measured: Any) -> bool:
    """Whether they are equal: as numbers where both are, else as text."""
    try:
        return float(guess) == float(measured)
    except (TypeError, ValueError):
        return str(guess) == str(measured)
