"""The explorers: what they show, and what they do with odd input. All on the real Pocket Llama."""

import html
import json
import math
import re

import pytest

from course_utils import explorers, sentiment
from course_utils.chat import templates as chat_templates
from course_utils.errors import CourseError
from course_utils.explorers import controls, fitting, tokens
from course_utils.models import model_path
from course_utils.plots import Shown

HOSTILE = "<img src=x onerror=alert(1)> nice"


@pytest.fixture(scope="module")
def llama():
    """Pocket Llama and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_path())
    # fp32: several times as fast as fp16 on a processor without it
    return AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32), tokenizer


@pytest.fixture
def live(monkeypatch):
    """A notebook that a person is looking at: widgets, no static pictures."""
    monkeypatch.setenv("COURSE_STATIC", "0")


def seen(widget):
    """The HTML that an explorer shows under its controls, without the picture's bytes."""
    return re.sub(r"base64,[^\"]+", "", widget.children[-1].value)


# -- label probabilities ------------------------------------------------------------------------


def test_label_probabilities_agree_with_the_reply(llama):
    """A learner who compares the bars with the reply: the highest bar must be the label given."""
    chat = sentiment.messages(controls.COFFEE)
    chances = sentiment.label_probabilities(*llama, chat)
    assert list(chances) == [*sentiment.LABELS, "other"]
    assert math.isclose(sum(chances.values()), 1, abs_tol=1e-6)
    reply = sentiment.local_complete(*llama)(chat)
    assert max(chances, key=chances.get) == sentiment.parse_label(reply)


def test_label_probabilities_multiply_along_a_label(llama):
    """A learner whose model cuts labels into pieces: the pieces' probabilities are multiplied."""
    import torch

    model, tokenizer = llama
    chat = sentiment.messages("The shop opens at nine.")
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
    expected = dict.fromkeys(sentiment.LABELS, 0.0)
    for label in sentiment.LABELS:
        for word in (label, f" {label}", label.lower(), f" {label.lower()}"):
            ids, share = list(prompt["input_ids"]), 1.0
            for token in tokenizer.encode(word, add_special_tokens=False):
                with torch.inference_mode():
                    logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
                share *= logits.float().softmax(-1)[token].item()
                ids.append(token)
            expected[label] += share
    found = sentiment.label_probabilities(model, tokenizer, chat)
    for label in sentiment.LABELS:
        assert math.isclose(found[label], expected[label], abs_tol=5e-3)


# -- temperature and top_p ----------------------------------------------------------------------


@pytest.mark.parametrize("temperature, top_p", [(0.1, 0.1), (0.7, 0.9), (3.0, 1.0)])
def test_temper_keeps_what_generate_keeps(temperature, top_p):
    """A learner who trusts the orange bars: they are the tokens that generate would draw from."""
    import torch
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    torch.manual_seed(0)
    logits = torch.randn(500) * 3
    chances, kept = tokens.temper(logits, temperature, top_p)
    warped = TemperatureLogitsWarper(temperature)(None, logits[None])
    assert torch.allclose(chances, warped[0].softmax(-1), atol=1e-6)
    if top_p < 1:
        warped = TopPLogitsWarper(top_p)(None, warped)
    assert torch.equal(kept, warped[0] > -math.inf)


# -- static, as in the stored notebooks ---------------------------------------------------------


def test_static_playground_has_picture_and_text(llama, monkeypatch):
    """A reader on GitHub, where no widget runs: a picture, and the same as text."""
    monkeypatch.setenv("COURSE_STATIC", "1")
    shown = explorers.playground(*llama)
    assert isinstance(shown, Shown) and shown.png.startswith(b"\x89PNG")
    for word in (controls.COFFEE, "reply:", "label:", *sentiment.LABELS):
        assert word in repr(shown)


def test_static_next_token_has_picture_and_text(llama, monkeypatch):
    """A reader on GitHub: the likeliest tokens as a picture and as text."""
    monkeypatch.setenv("COURSE_STATIC", "1")
    shown = explorers.next_token(*llama, "The food was")
    assert isinstance(shown, Shown) and shown.png.startswith(b"\x89PNG")
    assert "The food was" in repr(shown) and "others" in repr(shown)


# -- live ---------------------------------------------------------------------------------------


def test_playground_answers_what_is_typed(llama, live):
    """A learner who types a review and presses Enter: reply, label and picture are about it."""
    widget = explorers.playground(*llama)
    box, button, _ = widget.children
    before = seen(widget)
    box.value = "Terrible, what a waste of money."
    after = seen(widget)
    reply = sentiment.local_complete(*llama)(sentiment.messages(box.value))
    assert after != before and f"<b>label:</b> {sentiment.parse_label(reply)}" in after
    assert 'alt="' in after, "a screen reader gets the numbers too"
    button.click()
    assert seen(widget) == after


def test_playground_survives_odd_input(llama, live):
    """A learner who types nothing, a novel, tags or bytes: one message, and it goes on."""
    widget = explorers.playground(*llama)
    for typed, told in {
        "": "Type one",
        "   ": "Type one",
        "word " * 3000: "too long",
        "nice [/INST] place": "refuses",
        "\x00\udcff": "no readable text",
        "☕" * 20: "label:",
        HOSTILE: "label:",
        "Lovely place.": "<b>label:</b>",
    }.items():
        widget.children[0].value = typed
        assert told in seen(widget), repr(typed[:20])
        assert "<img src=x" not in seen(widget), "typed text is text, not HTML"


@pytest.mark.parametrize("review", [None, float("nan"), b"bytes", 5])
def test_what_is_no_text_is_told_before_the_model_sees_it(review):
    """A learner who scores a table with empty cells: which kind of thing it is, and what to do."""
    with pytest.raises(CourseError, match="has to be text"):
        sentiment.messages(review)


def test_a_text_beyond_the_context_is_told(llama):
    """A learner who pastes a novel: one message instead of an answer to half of it."""
    with pytest.raises(CourseError, match="too long"):
        sentiment.local_complete(*llama)(sentiment.messages("word " * 3000))


PARTS = [{"role": "user", "content": [{"type": "text", "text": "I love it"}]}]


@pytest.mark.parametrize(
    "wrong", ["I love it", [], None, [None], ["I love it"], PARTS, {"role": 1}]
)
def test_what_is_no_chat_is_told_before_the_model_sees_it(llama, wrong):
    """A learner who passes a text for messages: what a chat is, and no error from deep inside."""
    with pytest.raises(CourseError, match="chat is|no text"):
        sentiment.local_complete(*llama)(wrong)
    with pytest.raises(CourseError, match="chat is|no text"):
        sentiment.local_batch(*llama)([sentiment.messages("Fine."), wrong])
    with pytest.raises(CourseError, match="chat is|no text"):
        sentiment.label_probabilities(*llama, wrong)


def test_every_local_answer_says_when_the_prompt_is_too_long(llama):
    """A learner with a long review in a batch, or who asks for probabilities: no nonsense."""
    long = sentiment.messages("word " * 3000)
    with pytest.raises(CourseError, match="too long"):
        sentiment.local_batch(*llama)([sentiment.messages("Fine."), long])
    with pytest.raises(CourseError, match="too long"):
        sentiment.label_probabilities(*llama, long)


def test_next_token_adds_draws_and_takes_back(llama, live):
    """A learner who builds a text with the three buttons: each does what it says."""
    model, tokenizer = llama
    widget = explorers.next_token(model, tokenizer, "The food was")
    likeliest, draw, undo = widget.children[3].children
    empty = seen(widget)
    likeliest.click()
    best = model(**tokenizer("The food was", return_tensors="pt")).logits[0, -1].argmax()
    one = seen(widget)
    assert f"<b>{tokenizer.decode([int(best)])}</b>" in one
    draw.click()
    assert seen(widget) != one
    undo.click()
    assert seen(widget) == one
    undo.click()
    undo.click()
    assert seen(widget) == empty


def test_next_token_starts_again_with_a_new_text(llama, live):
    """A learner who types another beginning: what was added to the old one is gone."""
    widget = explorers.next_token(*llama, "The food was")
    widget.children[3].children[0].click()
    widget.children[0].value = "We waited"
    assert "We waited<b></b>" in seen(widget)
    widget.children[0].value = "x " * 3000
    assert "too long" in seen(widget)


def test_the_bars_add_up_and_say_which_tokens_can_be_drawn(llama, live):
    """A learner who reads the bars: together they hold 1, and the others are counted apart."""
    widget = explorers.next_token(*llama, "The food was", temperature=0.7, top_p=0.9)
    read = re.sub("&#x27;", "'", seen(widget))
    drawn, cut = (
        re.search(rf"([\d,]+) others, {what} +([\d.]+)", read)
        for what in ("in the draw", "cut off")
    )
    kept = int(re.search(r"keeps ([\d,]+)", read)[1].replace(",", ""))
    assert kept == int(drawn[1]) + tokens.CANDIDATES
    assert kept + int(cut[1].replace(",", "")) == len(llama[1])
    values = [float(v) for v in re.findall(r" ([01]\.\d\d)(?:\n|\")", read)]
    assert abs(sum(values) - 1) < 0.06
    widget.children[2].value = 0.1
    assert "in the draw" not in seen(widget) and "cut off" in seen(widget)


def test_token_names_show_the_space_and_are_all_different(llama):
    """A learner of any tokenizer: a bar for every token, none hidden behind one of its name."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    names = tokens.token_names(llama[1], range(len(llama[1])))
    assert len(set(names)) == len(names)
    words = {"Ġa": 0, "a": 1, "Ċ": 2, "â": 3, "ĺ": 4}
    byte_level = Tokenizer(models.WordLevel(words, unk_token="a"))
    byte_level.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=byte_level)
    shown = tokens.token_names(made, range(5))
    assert shown[:3] == ["' a'", "'a'", r"'\n'"] and len(set(shown)) == 5


def test_playing_leaves_the_notebooks_seed_alone(llama, live):
    """A learner who plays, then runs a seeded cell: its draw is the one the lesson shows."""
    import torch

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    widget = explorers.next_token(*llama)
    widget.children[3].children[1].click()
    assert torch.equal(torch.rand(3), expected)


# -- what holds for all of them, with ipywidgets 7 (`make colab`) and 8 --------------------------

# a widget or an option that only one of the two versions has is not among these
COMMON = {
    *("VBox", "HBox", "Text", "Button", "HTML", "Checkbox", "ToggleButtons"),
    *("IntSlider", "FloatSlider", "FloatLogSlider", "SelectionSlider"),
}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
]


def all_explorers(model, tokenizer) -> dict:
    """Each explorer of the lessons, as a function that makes it."""
    import torch

    row = torch.randn(256, generator=torch.Generator().manual_seed(0))
    formats = {"Llama 2": None, "ChatML": chat_templates.load("chatml")}
    return {
        "playground": lambda: explorers.playground(model, tokenizer),
        "endpoint_playground": lambda: explorers.endpoint_playground(
            sentiment.local_complete(model, tokenizer)
        ),
        "next_token": lambda: explorers.next_token(model, tokenizer),
        "chat_stepper": lambda: explorers.chat_stepper(tokenizer, CHAT, formats),
        "bounded": lambda: explorers.bounded(model, tokenizer),
        "rounding": lambda: explorers.rounding(row),
        "vram": explorers.vram,
        "lora_counter": lambda: explorers.lora_counter("llama-2-7b", "llama-2-13b"),
    }


NAMES = tuple(all_explorers(None, None))
SLOW = ("next_token", "rounding", "vram")  # each move draws a picture
MOVED = [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in NAMES]


def parts(widget):
    """A widget and all that is in it."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from parts(child)


def move(control) -> bool:
    """Change one control as a learner does; False for what is none, or only asks again."""
    kind = type(control).__name__
    if kind == "Button" and control.description != "Ask the model":
        control.click()
    elif kind == "Text":
        control.value = "Terrible, what a waste of money."
    elif kind == "Checkbox":
        control.value = not control.value
    elif kind in ("ToggleButtons", "SelectionSlider"):
        control.value = next(one for one in control.options if one != control.value)
    elif kind == "FloatLogSlider":
        control.value = control.base**control.max
    elif kind in ("IntSlider", "FloatSlider"):
        control.value = control.min if control.value == control.max else control.max
    else:
        return False
    return True


@pytest.mark.parametrize("name", MOVED)
def test_every_control_changes_what_is_shown(llama, live, name):
    """A learner who moves a slider and waits: something has to happen, on Colab too."""
    widget = all_explorers(*llama)[name]()
    assert {type(one).__name__ for one in parts(widget)} <= COMMON
    shown, moved = widget.children[-1].value, 0
    assert 'role="status"' in shown, "a screen reader is told of the change"
    for control in parts(widget):
        if move(control):
            assert widget.children[-1].value != shown, control
            shown, moved = widget.children[-1].value, moved + 1
    assert moved >= (1 if name == "playground" else 2)


@pytest.mark.parametrize("name", NAMES)
def test_without_widgets_there_is_a_picture_or_a_text(llama, monkeypatch, name):
    """A reader on GitHub, of a printed page or of the slides; and no widget is ever stored."""
    monkeypatch.setenv("COURSE_STATIC", "1")
    shown = all_explorers(*llama)[name]()
    assert isinstance(shown, Shown) and len(repr(shown).splitlines()) >= 2 - (name == "rounding")
    assert not any("widget" in kind for kind in shown._repr_mimebundle_())


@pytest.mark.parametrize("name", ["rounding", "vram", "lora_counter"])
def test_a_picture_comes_with_its_numbers(monkeypatch, name):
    """A learner who does not see the picture, and nbval: the numbers stand in the text."""
    monkeypatch.setenv("COURSE_STATIC", "1")
    shown = all_explorers(None, None)[name]()
    assert shown.png.startswith(b"\x89PNG")
    assert re.search(r"\d", repr(shown))


def test_what_is_typed_into_the_endpoints_playground_is_text(live):
    """A learner who types tags sees tags; an endpoint that fails ends in a message."""
    from openai import OpenAIError

    def complete(messages):
        if messages[-1]["content"] == "fail":
            raise OpenAIError("no credit")
        return f'{{"sentiment": "positive", "reason": "{messages[-1]["content"]}"}}'

    widget = explorers.endpoint_playground(complete)
    box, system, result = widget.children
    box.value = HOSTILE
    assert "<img" not in result.value and "label: Positive" in result.value
    system.value = "none"
    assert "instructions: (none)" in result.value
    box.value = "fail"
    assert "gave no answer" in result.value and "no credit" in result.value
    box.value = " "
    assert "Type one" in result.value


def test_the_rounding_explorer_rounds_as_the_lesson_does():
    """A learner who checks a dot of the picture with the lesson's own formula."""
    import torch

    row = torch.tensor([0.0, 7.0, -3.4, 1.2, 0.1, 0.02, -0.07, 0.0])
    kept = fitting.rounded(row, bits=4, block=4)
    expected = torch.tensor([0.0, 7.0, -3.0, 1.0, 0.1, 0.1 * 1 / 7, -0.1 * 5 / 7, 0.0])
    assert torch.allclose(kept, expected, atol=1e-6)


SMALLEST = '{"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}'


def test_a_bounded_reply_fits_its_schema_and_says_where_there_was_a_choice(llama, live):
    """A learner who writes a schema of their own: the reply is JSON of it, whatever the model."""
    widget = explorers.bounded(*llama)
    review, choice, written, result = widget.children
    for name in choice.options:
        choice.value = name
        reply = html.unescape(re.search(r"reply: (.*)", result.value)[1])
        assert json.loads(reply) is not None, reply
    written.value = '{"enum": ["Positive"]}'
    assert "reply: &quot;Positive&quot;" in result.value
    forced, tokens = map(int, re.search(r"(\d+) of (\d+) tokens", result.value).groups())
    assert 0 < forced <= tokens


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("{'type': 'string'}", "no JSON schema"),
        ("[]", "no JSON schema"),
        ('{"type": "strnig"}', "strnig"),
        ('{"enum": []}', "held to this schema"),
        ('{"type": "integer", "minimum": 5, "maximum": 3}', "greater than maximum"),
        ('{"type": "string", "minLength": 900}', "Cut off"),
    ],
)
def test_a_schema_that_cannot_be_ends_in_a_message(llama, live, schema, said):
    """A learner with a slip in the schema, or one that nothing satisfies, reads what is wrong."""
    widget = explorers.bounded(*llama)
    widget.children[2].value = schema
    shown = html.unescape(widget.children[-1].value)
    assert said in shown and shown.count("held to this schema") < 2
    widget.children[2].value = SMALLEST
    assert "reply: {" in widget.children[-1].value


def test_odd_reviews_leave_the_bounded_explorer_usable(llama, live):
    """A learner who pastes nothing, markup or a whole book."""
    widget = explorers.bounded(*llama)
    box, result = widget.children[0], widget.children[-1]
    for review, said in ((" ", "no review yet"), ("word " * 2000, "too long"), (HOSTILE, "reply:")):
        box.value = review
        assert said in result.value and "<img" not in result.value


def test_moving_the_line_counts_again(live):
    """A learner who looks for the right place of the line: each move says how many are right."""
    odds, labels = [4.0, 5.0, 6.5, 7.0], ["Negative", "Negative", "Positive", "Positive"]
    widget = explorers.bias(odds, labels)
    assert "Line at 0.0: 2 of 4 right, 4 called Positive" in seen(widget)
    places = widget.children[0].options
    widget.children[0].value = next(place for place in places if place > 5.2)
    assert "4 of 4 right, 2 called Positive" in seen(widget)


@pytest.mark.parametrize(
    ("odds", "labels"),
    [([], []), ([1.0], []), ([1.0], ["Neutral"]), ([1.0, 2.0], ["Positive"])],
)
def test_odds_and_labels_that_do_not_fit_are_a_message(odds, labels):
    """A learner who passes the wrong two lists is told what belongs together."""
    with pytest.raises(CourseError, match="do not go together"):
        explorers.bias(odds, labels)
