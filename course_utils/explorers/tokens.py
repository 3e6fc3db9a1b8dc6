"""Build a text token by token, and see what temperature and top_p do to the choice."""

import html
from collections.abc import Callable
from typing import Any

from course_utils import plots, sentiment, settings
from course_utils.errors import CourseError
from course_utils.explorers.controls import ROOM, WIDE, as_html, boxed, message
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


def _logits(model: Any, ids: list[int]) -> Any:
    """The scores of the token after `ids`, on the CPU."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids], device=model.device)).logits
    return logits[0, -1].float().cpu()


def _names(tokenizer: Any, ids: list[int]) -> list[str]:
    """Tokens as readable names, all different: what stands for a space is shown as one."""
    names: list[str] = []
    for token in ids:
        piece = str(tokenizer.convert_ids_to_tokens(token)).replace("▁", " ").replace("Ġ", " ")
        name = repr(piece)
        names.append(f"{name} #{token}" if name in names else name)
    return names


def _candidates(tokenizer: Any, logits: Any, temperature: float, top_p: float) -> Shown:
    """The likeliest next tokens, those that can be drawn brought out, and all others together."""
    chances, kept = temper(logits, temperature, top_p)
    ids = chances.argsort(descending=True, stable=True)[:CANDIDATES].tolist()
    names = _names(tokenizer, ids)
    values = {name: chances[token].item() for name, token in zip(names, ids, strict=True)}
    others = f"{len(chances) - len(ids):,} others"
    values[others] = max(0.0, 1 - sum(values.values()))
    drawable = [name for name, token in zip(names, ids, strict=True) if kept[token]]
    if int(kept.sum()) > len(drawable):
        drawable.append(others)
    title = f"Next token at temperature {temperature:g}; top_p {top_p:g} keeps {int(kept.sum()):,}"
    return plots.bars(values, title, number="{:.2f}", highlight=drawable)


def next_token(
    model: Any,
    tokenizer: Any,
    text: str = "The food was",
    temperature: float = 0.7,
    top_p: float = 0.9,
) -> Any:
    """Build a text token by token, and see what temperature and top_p do to the choice.

    Orange bars can be drawn, blue ones are cut off by top_p.

    Returns:
        A widget; a `Shown` for `text` while a program runs the notebook.
    """
    if settings.static():
        chart = _candidates(
            tokenizer, _logits(model, tokenizer(text)["input_ids"]), temperature, top_p
        )
        return Shown(f"text: {text}\n\n{chart.text}", png=chart.png)
    import ipywidgets as widgets

    slider: dict[str, Any] = {"step": 0.1, "continuous_update": False, "style": WIDE}
    box = widgets.Text(
        value=text,
        description="Start with:",
        continuous_update=False,
        style=WIDE,
        layout=widgets.Layout(width="95%"),
    )
    warmth = widgets.FloatSlider(
        value=temperature, min=0.1, max=3.0, description="temperature", **slider
    )
    share = widgets.FloatSlider(value=top_p, min=0.1, max=1.0, description="top_p", **slider)
    result = widgets.HTML()
    redraw, buttons = _token_steps(model, tokenizer, box, warmth, share, result)
    for control in (box, warmth, share):
        control.observe(redraw, names="value")
    redraw()
    return widgets.VBox([box, warmth, share, widgets.HBox(buttons), result])


def _token_steps(
    model: Any, tokenizer: Any, box: Any, warmth: Any, share: Any, result: Any
) -> tuple[Callable[..., None], list[Any]]:
    """What happens on a change in `next_token`: (redraw, its buttons)."""
    import ipywidgets as widgets
    import torch

    # A generator of its own, so that playing leaves the notebook's seed alone.
    dice = torch.Generator().manual_seed(0)
    added: list[int] = []
    known: dict[tuple[int, ...], Any] = {}

    def logits() -> Any:
        ids = [*tokenizer(box.value)["input_ids"], *added]
        sentiment.check_room(model, len(ids), ROOM)
        if not ids:
            raise CourseError("There is no text yet.", "", "Type a word and press Enter.")
        if tuple(ids) not in known:
            known.clear()
            known[tuple(ids)] = _logits(model, ids)
        return known[tuple(ids)]

    def redraw(change: Any = None) -> None:
        if change is not None and change["owner"] is box:
            added.clear()
        try:
            chart = _candidates(tokenizer, logits(), warmth.value, share.value)
        except CourseError as error:
            result.value = message(error)
            return
        new = html.escape(tokenizer.decode(added)) if added else ""
        result.value = as_html(chart, boxed(f"{html.escape(box.value)}<b>{new}</b>"))

    def add(choose: Callable[[Any], Any]) -> Callable[[object], None]:
        def step(_: object) -> None:
            try:
                added.append(int(choose(logits())))
            except CourseError as error:
                result.value = message(error)
                return
            redraw()

        return step

    def draw(scores: Any) -> Any:
        chances, kept = temper(scores, warmth.value, share.value)
        return torch.multinomial(chances * kept, 1, generator=dice)

    def undo(_: object) -> None:
        if added:
            added.pop()
        redraw()

    actions: dict[str, Callable[[object], None]] = {
        "Add the likeliest": add(lambda scores: scores.argmax()),
        "Draw one": add(draw),
        "Undo": undo,
    }
    buttons = []
    for name, action in actions.items():
        button = widgets.Button(description=name)
        button.on_click(action)
        buttons.append(button)
    return redraw, buttons
