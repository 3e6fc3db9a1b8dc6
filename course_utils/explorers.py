"""Things to play with: type a review, or build a text token by token.

Each explorer is a widget made of what ipywidgets 7 and 8 share, reached and worked by keyboard
alone. While a program runs the notebook (`settings.static()`) it is a `Shown` instead: a picture
with the same numbers as text. What an explorer shows is worked out by the model at that moment.
"""

import base64
import html
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from course_utils import chat_templates, plots, predict, sentiment, settings, tuning
from course_utils.errors import CourseError
from course_utils.plots import Shown
from course_utils.sentiment import Complete, Messages
from course_utils.units import size

COFFEE = "I love this new coffee shop, the beans are so fresh!"
WIDE = {"description_width": "110px"}
CANDIDATES = 8  # tokens drawn by `next_token`: as many as are read at a glance
ROOM = 50  # tokens left free for an answer


# -- what explorers share -----------------------------------------------------------------------


def _as_html(shown: Shown, note: str = "") -> str:
    """A picture for an HTML widget, with its text for those who do not see it."""
    data = base64.b64encode(shown.png).decode("ascii")
    text = html.escape(shown.text, quote=True)
    return (
        f'<div role="status">{note}<img src="data:image/png;base64,{data}" alt="{text}" '
        'style="width:min(100%,660px)"></div>'
    )


def _message(error: Exception) -> str:
    """An error as a widget shows it: its lines, no traceback."""
    lines = "<br>".join(html.escape(line) for line in str(error).splitlines())
    return f'<div role="status">{lines}</div>'


def _boxed(text: str) -> str:
    """Text in a box of its own, dark on light in every theme; line breaks kept."""
    return (
        f'<div style="background-color:{plots.PASTEL[0]};color:{plots.INK};padding:4px 8px;'
        f'white-space:pre-wrap">{text}</div>'
    )


def _one_of(options: Iterable[str], value: str, description: str) -> Any:
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


# -- a review, its reply, its label -------------------------------------------------------------


def _read(model: Any, tokenizer: Any, review: str) -> tuple[str, Shown]:
    """The model's reply to a review, and the probabilities of the labels.

    Raises:
        CourseError: the review is empty, no text, too long, or refused by the chat template.
    """
    from jinja2 import TemplateError

    if not review.strip():
        raise CourseError("There is no review yet.", "", "Type one and press Enter.")
    chat = sentiment.messages(review)
    try:
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
    except TemplateError as error:
        raise CourseError(
            "The chat template refuses this text.", str(error), "Leave that part out."
        ) from None
    sentiment.check_room(model, len(prompt["input_ids"]), ROOM)
    reply = sentiment.local_complete(model, tokenizer)(chat)
    chances = sentiment.label_probabilities(model, tokenizer, chat)
    title = "Probability of the reply's first word"
    chart = plots.bars(
        chances, title, number="{:.1f}", highlight=[_top(chances)], in_picture="{:.3f}"
    )
    return reply, chart


def _top(chances: dict[str, float]) -> str:
    """The name with the highest value."""
    return max(chances, key=lambda name: chances[name])


def playground(model: Any, tokenizer: Any, review: str = COFFEE) -> Any:
    """Type a review; see the reply, the label parsed from it, and how sure the model is.

    Returns:
        A widget; a `Shown` for `review` while a program runs the notebook.
    """
    if settings.static():
        reply, chart = _read(model, tokenizer, review)
        lines = [f"review: {review}", f"reply:  {reply}", f"label:  {sentiment.parse_label(reply)}"]
        return Shown("\n".join([*lines, "", chart.text]), png=chart.png)
    import ipywidgets as widgets

    box = widgets.Text(
        value=review,
        description="Your review:",
        continuous_update=False,  # asked on Enter or on leaving the box, not at every letter
        style=WIDE,
        layout=widgets.Layout(width="95%"),
    )
    button = widgets.Button(description="Ask the model", button_style="primary")
    result = widgets.HTML()

    def ask(_: object = None) -> None:
        try:
            reply, chart = _read(model, tokenizer, box.value)
        except CourseError as error:
            result.value = _message(error)
            return
        label = sentiment.parse_label(reply)
        note = _boxed(f"<b>reply:</b> {html.escape(reply)}\n<b>label:</b> {label}")
        result.value = _as_html(chart, note)

    box.observe(ask, names="value")
    button.on_click(ask)
    ask()
    return widgets.VBox([box, button, result])


# -- the same at an endpoint --------------------------------------------------------------------

INSTRUCTIONS: dict[str, str | None] = {
    "the course's": sentiment.SYSTEM,
    "a sentence": "Give the sentiment and the reason in one sentence.",
    "JSON": "Answer in JSON with the keys sentiment and reason.",
    "none": None,
}


def _asked(complete: Complete, review: str, system: str | None) -> str:
    """What an endpoint makes of a review, in lines: instructions, reply, label.

    Raises:
        CourseError: the review is empty or no text, or the endpoint does not answer.
    """
    from openai import OpenAIError

    if not review.strip():
        raise CourseError("There is no review yet.", "", "Type one and press Enter.")
    try:
        reply = complete(sentiment.messages(review, system))
    except OpenAIError as error:
        raise CourseError(
            "The endpoint gave no answer.",
            f"{type(error).__name__}: {error}",
            "See what to do about this error in lesson 01, section 9.",
        ) from None
    label = sentiment.parse_label(reply)
    return f"instructions: {system or '(none)'}\nreply: {reply}\nlabel: {label}"


def endpoint_playground(complete: Complete, review: str = COFFEE) -> Any:
    """Type a review and choose the instructions; see the endpoint's reply, and the label in it.

    Args:
        complete: messages in, reply out, as lesson 01 builds it on the client.
        review: the first review.

    Returns:
        A widget; a `Shown` for `review` while a program runs the notebook.
    """
    first = next(iter(INSTRUCTIONS))
    if settings.static():
        return Shown(f"review: {review}\n{_asked(complete, review, INSTRUCTIONS[first])}")
    import ipywidgets as widgets

    box = widgets.Text(
        value=review,
        description="Your review:",
        continuous_update=False,  # a request on Enter or on leaving the box, not at every letter
        style=WIDE,
        layout=widgets.Layout(width="95%"),
    )
    system = _one_of(INSTRUCTIONS, first, "instructions")
    result = widgets.HTML()

    def ask(_: object = None) -> None:
        try:
            said = _asked(complete, box.value, INSTRUCTIONS[system.value])
        except CourseError as error:
            result.value = _message(error)
            return
        result.value = f'<div role="status">{_boxed(html.escape(said))}</div>'

    for control in (box, system):
        control.observe(ask, names="value")
    ask()
    return widgets.VBox([box, system, result])


# -- token by token -----------------------------------------------------------------------------


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
            result.value = _message(error)
            return
        new = html.escape(tokenizer.decode(added)) if added else ""
        result.value = _as_html(chart, _boxed(f"{html.escape(box.value)}<b>{new}</b>"))

    def add(choose: Callable[[Any], Any]) -> Callable[[object], None]:
        def step(_: object) -> None:
            try:
                added.append(int(choose(logits())))
            except CourseError as error:
                result.value = _message(error)
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


# -- a chat, message by message -----------------------------------------------------------------


def _chat_step(
    tokenizer: Any, chat: Messages, template: str | None, add_generation_prompt: bool
) -> Shown:
    """The prompt of `chat` as a strip, with its token count; or why the template refuses it."""
    from jinja2 import TemplateError

    try:
        pieces = chat_templates.pieces(tokenizer, chat, template, add_generation_prompt)
    except TemplateError as error:
        text = f"The template refuses these messages: {error}"
        return Shown(text, html=_boxed(html.escape(text)))
    strip = plots.chat_strip(pieces)
    last = f"messages so far: {len(chat)}, the last one from the {chat[-1]['role']}"
    text = f"{last}; tokens: {len(pieces)}"
    return Shown(f"{text}\n{strip.text}", html=f"{_boxed(html.escape(text))}{strip.html}")


def chat_stepper(
    tokenizer: Any, messages: Messages, templates: Mapping[str, str | None] | None = None
) -> Any:
    """Add one message after another and see the prompt grow, in one format or another.

    Args:
        tokenizer: a fast tokenizer of transformers.
        messages: the whole chat, at least one message.
        templates: chat templates by name, None for the tokenizer's own; only that by default.

    Returns:
        A widget; a `Shown` of the whole chat in the first format while a program runs the notebook.
    """
    formats = dict(templates or {"this model's own": None})
    first = next(iter(formats.values()))
    if settings.static():
        return _chat_step(tokenizer, messages, first, add_generation_prompt=False)
    import ipywidgets as widgets

    family = _one_of(formats, next(iter(formats)), "format")
    count = widgets.IntSlider(
        value=len(messages), min=1, max=len(messages), description="messages", style=WIDE
    )
    opened = widgets.Checkbox(value=False, description="add_generation_prompt", indent=False)
    result = widgets.HTML()

    def redraw(_: object = None) -> None:
        chat = messages[: count.value]
        shown = _chat_step(tokenizer, chat, formats[family.value], opened.value)
        result.value = f'<div role="status">{shown.html}</div>'

    for control in (family, count, opened):
        control.observe(redraw, names="value")
    redraw()
    return widgets.VBox([widgets.VBox([family, count, opened]), result])


# -- LoRA's parameters counted ------------------------------------------------------------------

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MODULES: dict[str, tuple[str, ...]] = {
    "q and v, as in LoRA's paper": ("q_proj", "v_proj"),
    "attention": ATTENTION,
    "all linear layers": (*ATTENTION, "gate_proj", "up_proj", "down_proj"),
}


def _lora_counted(names: tuple[str, ...], rank: int, chosen: str) -> Shown:
    """Trained parameters of LoRA for each model, as a share of all its parameters."""
    shares, lines = {}, []
    for name in names:
        config = predict.config(name)
        trained = tuning.lora_parameters(config, rank, MODULES[chosen])
        whole = predict.weights(config, "fp16").parameters
        shares[name] = 100 * trained / whole
        lines.append(
            f"{name}: trains {trained:,} beside {whole:,} frozen, "
            f"an adapter of {size(4 * trained)} in fp32"
        )
    title = f"Trained parameters at rank {rank}, {chosen}"
    chart = plots.bars(shares, title, unit="% of the model's own", number="{:.2f} %")
    return Shown("\n".join([chart.text, *lines]), png=chart.png)


def lora_counter(
    *models: str, rank: int = 8, modules: str = "all linear layers", most: int = 256
) -> Any:
    """Turn rank and modules, and see how many parameters LoRA trains.

    Args:
        *models: as for `predict.config`: names like "llama-2-7b", or folders.
        rank: where the slider stands; a power of two.
        modules: which layers, one of `MODULES`.
        most: the largest rank offered.

    Returns:
        A widget; a `Shown` for the given values while a program runs the notebook.
    """
    if settings.static():
        return _lora_counted(models, rank, modules)
    import ipywidgets as widgets

    ranks = [2**i for i in range(most.bit_length())]
    slider = widgets.SelectionSlider(options=ranks, value=rank, description="rank", style=WIDE)
    layers = _one_of(MODULES, modules, "modules")
    result = widgets.HTML()

    def redraw(_: object = None) -> None:
        shown = _lora_counted(models, slider.value, layers.value)
        result.value = _as_html(shown, _boxed("\n".join(shown.text.splitlines()[-len(models) :])))

    for control in (slider, layers):
        control.observe(redraw, names="value")
    redraw()
    return widgets.VBox([slider, layers, result])
