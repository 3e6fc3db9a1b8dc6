"""The other families' templates, and whose each token of a prompt is."""

import re

import pytest
from transformers import AutoTokenizer

from course_utils import explorers, plots
from course_utils.chat import llama2_format
from course_utils.chat import templates as chat_templates
from course_utils.errors import CourseError
from course_utils.models import POCKET

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Bye"},
]
# From the sources that each template names
PUBLISHED = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
    "<|im_start|>assistant\n",
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "zephyr": "<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello!</s>\n"
    "<|user|>\nBye</s>\n<|assistant|>\n",
}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(POCKET)


@pytest.mark.parametrize("name", chat_templates.FAMILIES)
def test_families_render_as_published(name, tokenizer):
    """A learner who compares formats, or uses one of these files with a model of that family."""
    template = chat_templates.load(name)
    assert chat_templates.render(tokenizer, CHAT, template) == PUBLISHED[name]
    closed = chat_templates.render(tokenizer, CHAT, template, add_generation_prompt=False)
    assert PUBLISHED[name].startswith(closed) and len(closed) < len(PUBLISHED[name])
    assert "Written for this\n    course" in template or "Written for this course" in template


def test_a_folder_gives_its_own_template(tokenizer, tmp_path):
    """A learner who reads the template of a model on the disk."""
    assert chat_templates.load(str(POCKET)) == tokenizer.chat_template
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(CourseError, match="no chat template"):
        chat_templates.load(str(tmp_path))


def test_a_folder_without_tokenizer_is_named(tmp_path):
    """A learner who points at the wrong folder."""
    with pytest.raises(CourseError, match="could not be loaded"):
        chat_templates.load(str(tmp_path))


@pytest.mark.parametrize("name", ["chatm", "", "../x", "a/b/c", "no-one/no-such-model"])
def test_unknown_names_end_in_a_message(name):
    """A learner who misspells a family, or asks for the hub while offline."""
    with pytest.raises(CourseError) as error:
        chat_templates.load(name)
    assert "chatml" in str(error.value)


@pytest.mark.parametrize("name", [None, *chat_templates.FAMILIES])
def test_every_character_has_its_owner(name, tokenizer):
    """A learner who reads the coloured strip: no colour may lie."""
    template = chat_templates.load(name) if name else None
    runs = chat_templates.segments(tokenizer, CHAT, template)
    assert "".join(text for text, _ in runs) == chat_templates.render(tokenizer, CHAT, template)
    said = [(text, owner) for text, owner in runs if owner != "format"]
    assert said == [(message["content"], message["role"]) for message in CHAT]


@pytest.mark.parametrize(
    "contents", [("", ""), ("s", "INST"), ("user", "user"), (" a ", "\n"), ("é😀", "😀</s>")]
)
def test_strange_contents_keep_their_owner(contents, tokenizer):
    """A learner whose message is empty, or a word that stands in the format too."""
    messages = [
        {"role": r, "content": c} for r, c in zip(("system", "user"), contents, strict=True)
    ]
    for template in (None, *map(chat_templates.load, chat_templates.FAMILIES)):
        text = chat_templates.render(tokenizer, messages, template)
        runs = chat_templates.segments(tokenizer, messages, template)
        assert "".join(run for run, _ in runs) == text
        for message in messages:
            own = [run for run, owner in runs if owner == message["role"]]
            assert "".join(own) == message["content"].strip()


def test_pieces_are_the_tokens_the_model_gets(tokenizer):
    """A learner who counts boxes counts tokens."""
    pieces = chat_templates.pieces(tokenizer, CHAT)
    ids = tokenizer.apply_chat_template(CHAT)["input_ids"]
    assert len(pieces) == len(ids)
    special = [text for text, owner in pieces if owner == "special"]
    assert special == ["<s>", "</s>", "<s>"]
    emoji = [{"role": "user", "content": "😀"}]
    assert len(chat_templates.pieces(tokenizer, emoji)) == len(
        tokenizer.apply_chat_template(emoji)["input_ids"]
    )


def test_strip_shows_text_safely(tokenizer):
    """A learner who types HTML into a message sees it, and the page stays whole."""
    messages = [{"role": "user", "content": "<b onclick=x>hi</b>"}]
    shown = plots.chat_strip(chat_templates.pieces(tokenizer, messages))
    assert "<b " not in shown.html.replace("&lt;b", "")
    assert "user" in shown.text
    both = plots.side_by_side({"<i>": shown})
    assert "<i>" not in both.html and shown.text in both.text


def test_stepper_shows_each_step_and_each_refusal(tokenizer, monkeypatch):
    """A learner who steps through a chat by keyboard, in ipywidgets 7 or 8."""
    monkeypatch.setenv("COURSE_STATIC", "0")
    formats = {"Llama 2": None, "ChatML": chat_templates.load("chatml")}
    box = explorers.chat_stepper(tokenizer, CHAT, formats)
    family, count, opened, result = box.children
    count.value = 1
    assert "refuses" in result.value
    family.value = "ChatML"
    assert "refuses" not in result.value and "tokens: " in result.value
    before = result.value
    opened.value = True
    assert result.value != before
    count.value, opened.value = 3, False
    read = re.sub("<[^>]+>| ", "", result.value)
    assert "Hello" in read and "Bye" not in read
    monkeypatch.setenv("COURSE_STATIC", "1")
    assert "tokens: " in repr(explorers.chat_stepper(tokenizer, CHAT, formats))


def test_reading_the_format_needs_no_model():
    """A learner with any tokenizer: the probe that tells formats apart is a proper chat."""
    llama2_format.check(llama2_format.PROBE)


# -- what a tokenizer may bring along --------------------------------------------------------------


class Brings:
    """A tokenizer of which only the template matters."""

    def __init__(self, chat_template):
        self.chat_template = chat_template


@pytest.mark.parametrize("brought", [None, "", {}])
def test_a_base_model_is_named(brought):
    """A learner who names a base model hears so before a prompt is made."""
    with pytest.raises(CourseError, match="no chat template"):
        chat_templates.own(Brings(brought))


@pytest.mark.parametrize(
    "brought",
    [
        {"default": "A", "tool_use": "B"},
        {"rag": "A", "tool_use": "B"},
        {"tool": "B", "default": "A"},
    ],
)
def test_of_several_templates_one_is_given_and_not_its_name(brought):
    """A learner of a model with templates for tools as well: the text, never the name, of one."""
    assert chat_templates.own(Brings(brought)) == "A"


def test_several_templates_in_a_folder_give_the_ordinary_one(tokenizer, tmp_path):
    """A learner who reads a saved model that brings several templates."""
    other = AutoTokenizer.from_pretrained(POCKET)
    other.chat_template = {"rag": "{{ 'r' }}", "tool_use": "{{ 't' }}"}
    other.save_pretrained(tmp_path)
    assert chat_templates.load(str(tmp_path)) in ("{{ 'r' }}", "{{ 't' }}")


@pytest.mark.parametrize("damage", ["{", "[]", '{"version": "1.0", "model": {"type": "none"}}'])
def test_a_damaged_tokenizer_is_named(tokenizer, tmp_path, damage):
    """A learner whose download broke off: which tokenizer, and no traceback."""
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(damage, encoding="utf-8")
    with pytest.raises(CourseError, match="could not be loaded"):
        chat_templates.load(str(tmp_path))


def test_the_hub_that_is_asked_is_the_one_that_is_set(monkeypatch):
    """A learner behind a mirror (HF_ENDPOINT): the mirror is tried, and its password not shown."""
    asked = []
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "https://me:SEKRET@mirror.invalid")
    monkeypatch.setattr(chat_templates.machine, "reachable", lambda host: asked.append(host))
    with pytest.raises(CourseError) as error:
        chat_templates.load("no-one/no-such-model")
    assert "mirror.invalid" in asked[0] and "SEKRET" not in str(error.value)


HOSTILE = {
    "a loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}x",
    "a text of gigabytes": "{{ 'a' * 8000000000 }}",
    "a text that doubles": "{% set n = namespace(x='aa') %}{% for i in range(40) %}"
    "{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_that_does_not_end_is_stopped(name, monkeypatch):
    """A learner who reads a stranger's template: a message, and the machine goes on."""
    monkeypatch.setattr(chat_templates, "SECONDS", 2)
    with pytest.raises(CourseError, match="come to an end"):
        chat_templates.own(Brings(HOSTILE[name]))


@pytest.mark.parametrize(
    "harmless",
    [
        *map(chat_templates.load, chat_templates.FAMILIES),
        (POCKET / "chat_template.jinja").read_text(encoding="utf-8"),
        "{{ raise_exception('no') }}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
        "{{ 1 / 0 }}",
        "{% if",
        "{{ strftime_now('%Y') }}{{ tools | tojson }}",
    ],
)
def test_a_template_that_ends_is_given_whatever_it_does(harmless):
    """A learner who reads an odd template: it is theirs to read; it stops when it is used."""
    assert chat_templates.own(Brings(harmless)) == harmless


def test_a_template_that_stops_ends_in_a_message(tokenizer):
    """A learner whose template divides by zero, calls nothing or refuses: one message."""
    for template in (
        "{{ 1 / 0 }}",
        "{{ nothing() }}",
        "{{ 'a' + 5 }}",
        "{{ raise_exception('no') }}",
    ):
        with pytest.raises(CourseError, match="refuses"):
            chat_templates.render(tokenizer, CHAT, template)


@pytest.mark.parametrize(
    "content", [[{"type": "text", "text": "The soup was hot."}], None, 5, {"text": "x"}, b"x"]
)
def test_a_message_without_plain_text_is_named(tokenizer, content):
    """A learner who sends parts, as some APIs take them: told before the template stops."""
    messages = [{"role": "user", "content": content}]
    for use in (chat_templates.render, chat_templates.pieces, chat_templates.segments):
        with pytest.raises(CourseError, match="no text"):
            use(tokenizer, messages)


# -- tokenizers of other kinds ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def byte_level():
    """A byte-level BPE tokenizer with ChatML's marks and no BOS, as many families have it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=True)
    marks = ["<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=marks,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["The soup was cold and nobody came."] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token=marks[1],
        pad_token=marks[1],
        extra_special_tokens=marks[:1],
    )
    tokenizer.chat_template = chat_templates.load("chatml")
    return tokenizer


@pytest.mark.parametrize("content", ["The soup was cold.", "Zürich \u2615\u2615", "", " a\n\nb "])
def test_byte_level_pieces_hold_the_whole_text(byte_level, content):
    """A learner in the small tier: every token has a box, spaces included, coloured by owner."""
    messages = [{"role": "user", "content": content}]
    found = chat_templates.pieces(byte_level, messages)
    assert len(found) == len(
        byte_level.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    )
    text = chat_templates.render(byte_level, messages)
    if content.isascii():
        assert "".join(piece for piece, _ in found) == text
    assert [p for p, owner in found if owner == "special"] == re.findall(r"<\|im_\w+\|>", text)


def test_marks_that_a_tokenizer_cuts_to_pieces_are_named(tokenizer, byte_level):
    """A learner who counts another family's tokens with the wrong tokenizer."""
    for template, other, unknown in (
        (None, tokenizer, []),
        ("chatml", tokenizer, ["<|im_start|>", "<|im_end|>"]),
        ("zephyr", tokenizer, ["<|system|>", "<|user|>", "<|assistant|>"]),
        (None, byte_level, []),
    ):
        runs = chat_templates.segments(other, CHAT, template and chat_templates.load(template))
        assert chat_templates.unknown_marks(other, runs) == unknown
    hostile = [{"role": "user", "content": "a <|im_start|> of a user"}]
    assert (
        chat_templates.unknown_marks(tokenizer, chat_templates.segments(tokenizer, hostile)) == []
    )


def test_the_stepper_counts_no_tokens_of_a_foreign_format(tokenizer, byte_level, monkeypatch):
    """A learner who compares token counts: a number only where the tokenizer knows the marks."""
    monkeypatch.setenv("COURSE_STATIC", "1")
    chatml = {"ChatML": chat_templates.load("chatml")}
    assert "not counted, <|im_start|>" in repr(explorers.chat_stepper(tokenizer, CHAT, chatml))
    assert re.search(r"tokens: \d+\n", repr(explorers.chat_stepper(byte_level, CHAT, chatml)))
