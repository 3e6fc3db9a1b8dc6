"""Build a text token by token, and see what temperature and top_p do to the choice."""

import html
from collections.abc import Callable, Iterable
from typing import Any

from course_utils import plots, sentiment, settings
from course_utils.errors import CourseError
from course_utils.explorers.controls import ROOM, WIDE, boxed, panel, text_box
from course_utils.plots import Shown

CANDIDATES = 8  # tokens drawn by `next_token`: as many as are read at a glance


def temper(logits: Any, temperature: float, top_p: float) -> tuple[Any, Any]:
    """Next-token probabilities at a temperature, and which of them `top_p` leaves in the draw.

    Args:
        logits: one score for each token of the vocabulary, a tensor of that length.
        temperature: above 0; the logits are divided by it.
        top_p: the most probable tokens are kept until together they reach this share.

    Returns:
        The probabilities before the cut, and a mask, True for the tokens kept (at least one).
    """
    import torch

    chances = (logits.float() / temperature).softmax(-1)
    ordered, order = chances.sort(descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered  # what the more probable ones hold together
    kept = torch.zeros_like(chances, dtype=torch.bool)
    kept[order] = before < top_p
    kept[order[0]] = True
    return chances, kept


def token_names(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    """Tokens as readable names, all different: what stands for a space is shown as one."""
    names: list[str] = []
    for token in map(int, ids):
        piece = str(tokenizer.convert_ids_to_tokens(token))
        # Only the pieces of byte-level tokenizers need decoding; others lose their space by it.
        if not piece.startswith(("▁", "<0x")):
            piece = tokenizer.decode([token])
        name = repr(piece.replace("▁", " "))
        names.append(f"{name} #{token}" if name in names else name)
    return names


class _Text:
    """The text that `next_token` builds: what was typed, what was added, and the scores after."""

    def __init__(self, model: Any, tokenizer: Any, typed: str) -> None:
        import torch

        self.model, self.tokenizer = model, tokenizer
        self.typed, self.added = typed, list[int]()
        # Dice of its own, so that playing leaves the notebook's seed alone.
        self._dice = torch.Generator().manual_seed(0)
        self._known: tuple[list[int], Any] = ([], None)  # a move of a slider asks no model

    def start(self, typed: str) -> None:
        """Begin anew, if this is another text."""
        if typed != self.typed:
            self.typed = typed
            self.added.clear()

    def logits(self) -> Any:
        """The scores of the next token, on the CPU.

        Raises:
            CourseError: there is no text yet, or no more room in the model's context.
        """
        import torch

        ids = [*self.tokenizer(self.typed)["input_ids"], *self.added]
        sentiment.check_room(self.model, len(ids), ROOM)
        if not ids:
            raise CourseError("There is no text yet.", "", "Type a word and press Enter.")
        if self._known[0] != ids:
            inputs = torch.tensor([ids], device=self.model.device)
            with torch.inference_mode():
                self._known = ids, self.model(input_ids=inputs).logits[0, -1].float().cpu()
        return self._known[1]

    def add_likeliest(self) -> None:
        """Append the token with the highest score."""
        self.added.append(int(self.logits().argmax()))

    def draw(self, temperature: float, top_p: float) -> None:
        """Append a token drawn from those that `top_p` keeps."""
        import torch

        chances, kept = temper(self.logits(), temperature, top_p)
        self.added.append(int(torch.multinomial(chances * kept, 1, generator=self._dice)))

    def undo(self) -> None:
        """Take the last token back."""
        del self.added[-1:]

    def chart(self, temperature: float, top_p: float) -> Shown:
        """The likeliest next tokens; brought out are those in the draw."""
        chances, kept = temper(self.logits(), temperature, top_p)
        ids = chances.argsort(descending=True, stable=True)[:CANDIDATES]
        names = token_names(self.tokenizer, ids)
        values = dict(zip(names, chances[ids].tolist(), strict=True))
        drawable = [name for name, inside in zip(names, kept[ids].tolist(), strict=True) if inside]
        chances[ids] = 0.0
        for what, others in (("in the draw", kept), ("cut off", ~kept)):
            count = int(others.sum() - others[ids].sum())
            if count:
                values[f"{count:,} others, {what}"] = chances[others].sum().item()
        title = f"Next token, temperature {temperature:g}; top_p {top_p:g} keeps {kept.sum():,}"
        return plots.bars(values, title, number="{:.2f}", highlight=drawable)


def next_token(
    model: Any,
    tokenizer: Any,
    text: str = "The food was",
    temperature: float = 0.7,
    top_p: float = 0.9,
) -> Any:
    """Build a text token by token, and see what temperature and top_p do to the choice.

    Orange tokens can be drawn, blue ones are cut off by top_p.

    Returns:
        A widget; a `Shown` for `text` while a program runs the notebook.
    """
    built = _Text(model, tokenizer, text)
    if settings.static():
        chart = built.chart(temperature, top_p)
        return Shown(f"text: {text}\n\n{chart.text}", png=chart.png)
    import ipywidgets as widgets

    def draw(text: str, temperature: float, top_p: float) -> Shown:
        built.start(text)
        chart = built.chart(temperature, top_p)
        new = html.escape(tokenizer.decode(built.added)) if built.added else ""
        chart.note = boxed(f"{html.escape(text)}<b>{new}</b>")
        return chart

    fine: dict[str, Any] = {"min": 0.1, "step": 0.1, "continuous_update": False, "style": WIDE}
    controls = {
        "text": text_box(text, "Start with:"),
        "temperature": widgets.FloatSlider(
            value=temperature, max=3.0, description="temperature", **fine
        ),
        "top_p": widgets.FloatSlider(value=top_p, max=1.0, description="top_p", **fine),
    }
    actions: dict[str, Callable[..., object]] = {
        "Add the likeliest": lambda **_: built.add_likeliest(),
        "Draw one": lambda text, **how: built.draw(**how),
        "Undo": lambda **_: built.undo(),
    }
    return panel(draw, controls, actions)
