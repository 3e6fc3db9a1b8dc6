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
    controls, result = box.children
    family, count, opened = controls.children
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
