"""Tokens side by side in coloured boxes, so that the borders between them show."""

import html
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

from course_utils.plots.shown import INK, PASTEL, STRONG, Shown, visible


def token_strip(
    pieces: Sequence[str],
    below: Sequence[object] | None = None,
    mark: Collection[str] = (),
    colours: Sequence[str] | None = None,
) -> Shown:
    """Tokens side by side, each in a coloured box, so that the borders between them show.

    Args:
        pieces: the tokens' texts, as from `tokenizer.convert_ids_to_tokens`.
        below: something to write under each token, like its id or its probability.
        mark: token texts to bring out, like the special tokens.
        colours: one CSS colour for each token, where a colour means something; dark letters are
            written on it. By default five pale colours take turns.

    Returns:
        The strip; its text is `<s>|▁I|▁love`, with `=` and what stands below after each token.

    Raises:
        ValueError: `below` or `colours` has another length than `pieces`.
    """
    under = [""] * len(pieces) if below is None else [str(b) for b in below]
    back = list(colours or (PASTEL[i % len(PASTEL)] for i in range(len(pieces))))
    boxes, words = [], []
    for piece, note, colour in zip(pieces, under, back, strict=True):
        word = visible(piece)
        words.append(f"{word}={note}" if note else word)
        small = f'<br><span style="font-size:75%">{html.escape(note)}</span>' if note else ""
        shade = STRONG if piece in mark else colour
        boxes.append(
            f'<span style="display:inline-block;padding:1px 4px;background-color:{shade};'
            f'color:{INK}">{html.escape(word)}{small}</span>'
        )
        if piece.endswith("\n") or piece == "<0x0A>":
            boxes.append("<br>")
    strip = f'<div style="font-family:monospace;line-height:1.6">{" ".join(boxes)}</div>'
    return Shown("|".join(words), html=strip)


# Whose a token is in a rendered chat (see `chat_templates.pieces`)
OWNERS = {
    "special": STRONG,
    "format": "#e5e7eb",
    "system": "#ddd6fe",
    "user": "#bfdbfe",
    "assistant": "#bbf7d0",
}


def chat_strip(pieces: Sequence[tuple[str, str]]) -> Shown:
    """The tokens of a rendered chat, coloured by whose they are.

    Args:
        pieces: (token text, owner) pairs, as from `chat_templates.pieces`.

    Returns:
        The strip under a legend; its text has one line for each run of tokens of one owner.
    """
    strip = token_strip([p for p, _ in pieces], colours=[OWNERS[owner] for _, owner in pieces])
    legend = " ".join(
        f'<span style="background-color:{colour};color:{INK};padding:1px 6px">{owner}</span>'
        for owner, colour in OWNERS.items()
        if any(owner == whose for _, whose in pieces)
    )
    lines = []
    for whose, run in groupby(pieces, key=itemgetter(1)):
        lines.append(f"{whose:9} " + "|".join(visible(piece) for piece, _ in run))
    return Shown("\n".join(lines), html=f"<div>{legend}</div>{strip.html}")


def side_by_side(shown: Mapping[str, Shown]) -> Shown:
    """Several strips in columns, each under its name; as text, one below the other."""
    box = "flex:1 1 220px;overflow-wrap:anywhere"
    columns = "".join(
        f'<div style="{box}"><b>{html.escape(name)}</b>{one.html}</div>'
        for name, one in shown.items()
    )
    text = "\n\n".join(f"{name}\n{one.text}" for name, one in shown.items())
    row = f'<div style="display:flex;flex-wrap:wrap;gap:16px;text-align:left">{columns}</div>'
    return Shown(text, html=row)
