"""Pictures, tables and strips of tokens: one look, and beside each its numbers as text."""

from course_utils.plots.pictures import (
    PALETTE,
    as_png,
    bars,
    canvas,
    confusion,
    curves,
    layers,
    style,
)
from course_utils.plots.shown import INK, PASTEL, STRONG, Shown, as_text, table, told
from course_utils.plots.strips import OWNERS, chat_strip, side_by_side, token_strip

__all__ = ["INK", "OWNERS", "PALETTE", "PASTEL", "STRONG", "Shown", "as_png", "as_text", "bars"]
__all__ += ["canvas", "chat_strip", "confusion", "curves", "layers", "side_by_side", "style"]
__all__ += ["table", "token_strip", "told"]
