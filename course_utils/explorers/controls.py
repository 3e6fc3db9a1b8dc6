"""What explorers share: controls above a result, and pictures and messages as widgets show them.

Each explorer is a widget made of what ipywidgets 7 and 8 share, reached and worked by keyboard
alone. While a program runs the notebook (`settings.static()`) it is a `Shown` instead: a picture
with the same numbers as text. What an explorer shows is worked out by the model at that moment.
"""

import base64
import html
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from course_utils import plots
from course_utils.errors import CourseError
from course_utils.plots import Shown, told

COFFEE = "I love this new coffee shop, the beans are so fresh!"
WIDE = {"description_width": "110px"}
ROOM = 50  # tokens left free for an answer
Actions = Mapping[str, Callable[..., object]]


def panel(
    draw: Callable[..., Shown], controls: Mapping[str, Any], actions: Actions | None = None
) -> Any:
    """A widget: controls, buttons for the actions, and below what `draw` makes of the values.

    Args:
        draw: the controls' values by name → what to look at; asked anew at every move. A
            `CourseError` is shown as its message.
        controls: widgets with a `value`, by the names that `draw` gives its parameters.
        actions: what happens at the click on a button of that name, before the next `draw`; they
            get the same values.
    """
    import ipywidgets as widgets

    actions, result = actions or {}, widgets.HTML()

    def update(action: Callable[..., object] | None = None) -> None:
        values = {name: control.value for name, control in controls.items()}
        try:
            if action:
                action(**values)
            result.value = as_html(draw(**values))
        except CourseError as error:
            lines = "<br>".join(map(html.escape, str(error).splitlines()))
            result.value = told(lines)

    style = "primary" if len(actions) == 1 else ""
    buttons = [widgets.Button(description=name, button_style=style) for name in actions]
    for button, action in zip(buttons, actions.values(), strict=True):
        button.on_click(lambda _, action=action: update(action))
    for control in controls.values():
        control.observe(lambda _: update(), names="value")
    update()
    row = buttons if len(buttons) < 2 else [widgets.HBox(buttons)]
    return widgets.VBox([*controls.values(), *row, result])


def as_html(shown: Shown) -> str:
    """For an HTML widget: a picture has its text for those who do not see it, its note above."""
    if not shown.png:
        return told(shown.html)
    data = base64.b64encode(shown.png).decode("ascii")
    text = html.escape(shown.text, quote=True)
    image = f'<img src="data:image/png;base64,{data}" alt="{text}" style="width:min(100%,660px)">'
    return told(shown.note + image)


def boxed(text: str) -> str:
    """HTML text in a box of its own, dark on light in every theme; line breaks kept."""
    return (
        f'<div style="background-color:{plots.PASTEL[0]};color:{plots.INK};padding:4px 8px;'
        f'white-space:pre-wrap">{text}</div>'
    )


def one_of(options: Iterable[str], value: str, description: str) -> Any:
    """A row of buttons to choose one from: Tab goes to each, the space bar presses it.

    Not a Dropdown or RadioButtons: those want arrow keys, which JupyterLab takes for itself. The
    choices are names: a list of (label, value) pairs differs between ipywidgets 7 and 8.
    """
    import ipywidgets as widgets

    style = {**WIDE, "button_width": "auto"}
    return widgets.ToggleButtons(
        options=list(options), value=value, description=description, style=style
    )


def slider(options: Iterable[Any], value: Any, description: str) -> Any:
    """A slider that stops at each of the options."""
    import ipywidgets as widgets

    wide = {"style": WIDE, "layout": widgets.Layout(width="60%")}
    stops = list(options)
    return widgets.SelectionSlider(options=stops, value=value, description=description, **wide)


def text_box(value: str, description: str) -> Any:
    """A line to type into; it counts on Enter or on leaving the box, not at every letter."""
    import ipywidgets as widgets

    wide = {"style": WIDE, "layout": widgets.Layout(width="95%")}
    return widgets.Text(value=value, description=description, continuous_update=False, **wide)
