"""Something to look at, with its text: what every picture, table and strip of the course is.

A notebook shows the picture or the HTML; a terminal, a screen reader and the comparison of stored
outputs get the text. This module draws nothing.
"""

import base64
import html
from collections.abc import Sequence
from typing import Any

# Boxes of pale colours with dark letters: readable in a light theme and in a dark one.
PASTEL = ("#dbeafe", "#dcfce7", "#fef3c7", "#fce7f3", "#e0e7ff")
STRONG, INK = "#fdba74", "#1f2328"


class Shown:
    """Something to look at, with its text: `html` or `png` for a notebook, `text` for the rest."""

    def __init__(self, text: str, html: str = "", png: bytes = b"", note: str = "") -> None:
        """Keep the text and one of the two richer forms; a note is HTML above an explorer's png."""
        self.text, self.html, self.png, self.note = text, html, png, note

    def __repr__(self) -> str:
        """The text."""
        return self.text

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        bundle = {"text/plain": self.text}
        if self.html:
            bundle["text/html"] = self.html
        if self.png:
            bundle["image/png"] = base64.b64encode(self.png).decode("ascii")
        return bundle


def as_text(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True) -> str:
    """A table in plain text, the first column to the left, numbers to the right.

    Raises:
        ValueError: a row has another length than the head.
    """
    table = [list(map(str, row)) for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        first, *rest = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1])]
        cells += [cell.rjust(width) if numbers else cell.ljust(width) for cell, width in rest]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
    numbers: bool = True,
) -> Shown:
    """A table in HTML and as plain text, the first column to the left.

    Args:
        head: the columns' names.
        rows: cells as text. A line break keeps the HTML narrow; in the text it is a space.
        notes: lines to stand below.
        numbers: whether the other columns go to the right; words go to the left.
    """
    lines = []
    for kind, row in [("th", head), *(("td", row) for row in rows)]:
        cells = [html.escape(cell).replace("\n", "<br>") for cell in row]
        sides = ["left", *["right" if numbers else "left"] * (len(cells) - 1)]
        cells = [
            f'<{kind} style="text-align:{side};padding:3px 6px">{cell}</{kind}>'
            for side, cell in zip(sides, cells, strict=True)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    below = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    inside = f"<thead>{lines[0]}</thead><tbody>{''.join(lines[1:])}</tbody>"
    # on a narrow page the table scrolls by itself, and not the page
    rich = f'<div style="overflow-x:auto"><table>{inside}</table>{below}</div>'
    flat = [[cell.replace("\n", " ") for cell in row] for row in (head, *rows)]
    return Shown("\n".join([as_text(flat[0], flat[1:], numbers), *notes]), html=rich)


def told(inside: str) -> str:
    """HTML that a screen reader says as soon as it changes."""
    return f'<div role="status">{inside}</div>'


def visible(piece: str) -> str:
    """A token's text with its line breaks and tabs made visible."""
    return piece.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·") or "∅"
