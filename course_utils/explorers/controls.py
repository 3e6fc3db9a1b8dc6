"""What explorers share: boxes, buttons, pictures and messages as widgets show them.

Each explorer is a widget made of what ipywidgets 7 and 8 share, reached and worked by keyboard
alone. While a program runs the notebook (`settings.static()`) it is a `Shown` instead: a picture
with the same numbers as text. What an explorer shows is worked out by the model at that moment.
"""

import base64
import html
from collections.abc import Iterable
from typing import Any

from course_utils import plots
from course_utils.plots import Shown

COFFEE = "I love this new coffee shop, the beans are so fresh!"
WIDE = {"description_width": "110px"}
ROOM = 50  # tokens left free for an answer


def as_html(shown: Shown, note: str = "") -> str:
    """A picture for an HTML widget, with its text for those who do not see it."""
    data = base64.b64encode(shown.png).decode("ascii")
    text = html.escape(shown.text, quote=True)
    return (
        f'<div role="status">{note}<img src="data:image/png;base64,{data}" alt="{text}" '
        'style="width:min(100%,660px)"></div>'
    )


def message(error: Exception) -> str:
    """An error as a widget shows it: its lines, no traceback."""
    lines = "<br>".join(html.escape(line) for line in str(error).splitlines())
    return f'<div role="status">{lines}</div>'


def boxed(text: str) -> str:
    """Text in a box of its own, dark on light in every theme; line breaks kept."""
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

    return widgets.ToggleButtons(
        options=list(options),
        value=value,
        description=description,
        style={**WIDE, "button_width": "auto"},
    )
