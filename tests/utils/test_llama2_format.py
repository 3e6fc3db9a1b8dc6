"""Llama 2's chat format, held against Meta's reference code in text and in ids."""

import itertools

import pytest
from jinja2 import TemplateError
from transformers import AutoTokenizer

from course_utils.chat import llama2_format
from course_utils.chat import templates as chat_templates
from course_utils.errors import CourseError
from course_utils.models import POCKET
from pocket_training.tokenizer import CHAT_TEMPLATE

SYSTEMS = [None, "You are a helpful assistant that analyzes sentiment.", "", "  spaces \n around  "]
CONTENTS = [
    "The soup was cold.",
    "  spaces around \n",
    "",
    " \n\t ",
    "two\n\nlines",
    "emoji 😀, 日本, é, and a\u00a0hard space",
    "[sic] <<quoted>> [ INST ] {{ braces }} {% raw %}",
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(POCKET)


class Reference:
    """`chat_completion` of meta-llama/llama, llama/generation.py, as its published logic goes.

    Written from that source and apart from the course's own module: dialogs in, prompt tokens out.
    """

    specials = ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"]

    def __init__(self, encode, bos, eos):
        self.encode, self.bos, self.eos = encode, [bos], [eos]

    def is_unsafe(self, dialog):
        """Whether a message holds a tag: then the original answers with an error text."""
        return any(tag in message["content"] for tag in self.specials for message in dialog)

    def prompt(self, dialog):
        """What the model gets; AssertionError or IndexError where the original stops."""
        if dialog[0]["role"] == "system":
            head = "<<SYS>>\n" + dialog[0]["content"] + "\n<</SYS>>\n\n"
            second = dialog[1]
            merged = {"role": second["role"], "content": head + second["content"]}
            dialog = [merged] + dialog[2:]
        assert all(m["role"] == "user" for m in dialog[::2])
        assert all(m["role"] == "assistant" for m in dialog[1::2])
        tokens = self.bos[:0]
        for question, answer in zip(dialog[::2], dialog[1::2], strict=False):
            inside = f"[INST] {question['content'].strip()} [/INST] {answer['content'].strip()} "
            tokens = tokens + self.bos + self.encode(inside) + self.eos
        assert dialog[-1]["role"] == "user"
        return tokens + self.bos + self.encode(f"[INST] {dialog[-1]['content'].strip()} [/INST]")


@pytest.fixture(scope="module")
def reference(tokenizer):
    """The reference over Pocket Llama's ids."""

    def encode(text):
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return ids["input_ids"]

    return Reference(encode, tokenizer.bos_token_id, tokenizer.eos_token_id)


@pytest.fixture(scope="module")
def in_text():
    """The reference with strings for tokens: the text with BOS and EOS written out."""
    return Reference(lambda text: [text], "<s>", "</s>")


def chat(system, contents):
    """Alternating messages from the user on, after `system` where there is one."""
    first = [] if system is None else [{"role": "system", "content": system}]
    roles = itertools.cycle(["user", "assistant"])
    return first + [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]


def chats():
    """System and none, one to five turns, every content in every place."""
    for system in SYSTEMS:
        for turns in range(1, 6):
            for shift in range(len(CONTENTS)):
                turned = CONTENTS[shift:] + CONTENTS[:shift]
                yield chat(system, (turned * 2)[: 2 * turns - 1])


def test_text_equals_the_reference(in_text):
    """A learner who reads the format here reads the one Llama 2 was trained on."""
    for messages in chats():
        assert llama2_format.text(messages) == "".join(in_text.prompt(messages))


def test_ids_equal_the_reference(tokenizer, reference):
    """A learner who compares ids compares them with what Meta's code would feed the model."""
    for messages in chats():
        assert llama2_format.ids(messages, tokenizer) == reference.prompt(messages)


def test_bundled_template_equals_the_reference(tokenizer, reference, in_text):
    """Everybody who calls apply_chat_template with Pocket Llama, with and without the flag."""
    for messages in chats():
        for flag in (True, False):
            options = {"add_generation_prompt": flag}
            text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
            assert text == "".join(in_text.prompt(messages))
            ids = tokenizer.apply_chat_template(messages, **options)["input_ids"]
            assert ids == reference.prompt(messages)


def test_bundled_template_is_the_one_in_the_source():
    """Whoever rebuilds the tokenizer gets the template that is tested here."""
    assert (POCKET / "chat_template.jinja").read_text(encoding="utf-8") == CHAT_TEMPLATE


def test_whole_chats_close_their_last_turn(tokenizer, in_text):
    """A learner who fine-tunes: a training chat ends with the answer and EOS."""
    for messages in chats():
        whole = [*messages, {"role": "assistant", "content": " Positive "}]
        text = tokenizer.apply_chat_template(whole, tokenize=False)
        assert text == "".join(in_text.prompt(messages)) + " Positive </s>"


REFUSED = {
    "no messages": [],
    "system alone": [("system", "a")],
    "assistant first": [("assistant", "a"), ("user", "b")],
    "assistant after system": [("system", "a"), ("assistant", "b"), ("user", "c")],
    "two users": [("user", "a"), ("user", "b")],
    "two answers": [("user", "a"), ("assistant", "b"), ("assistant", "c"), ("user", "d")],
    "two systems": [("system", "a"), ("system", "b"), ("user", "c")],
    "system later": [("user", "a"), ("assistant", "b"), ("system", "c"), ("user", "d")],
    "assistant last": [("user", "a"), ("assistant", "b")],
    "unknown role": [("user", "a"), ("tool", "b"), ("user", "c")],
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_order_is_refused_by_all(name, tokenizer, reference):
    """A learner whose roles do not alternate is told so, as Meta's code stops."""
    messages = [{"role": role, "content": content} for role, content in REFUSED[name]]
    with pytest.raises((AssertionError, IndexError)):
        reference.prompt(messages)
    with pytest.raises(CourseError):
        llama2_format.text(messages)
    # transformers itself refuses an empty list before the template sees it
    with pytest.raises(TemplateError if messages else ValueError):
        tokenizer.apply_chat_template(messages, add_generation_prompt=True)


@pytest.mark.parametrize("tag", llama2_format.TAGS)
def test_tags_in_messages_are_refused_by_all(tag, tokenizer, reference):
    """A learner whose tool reads strangers' reviews: none may pass for a turn."""
    contents = ["a", "b", "c"]
    for place in range(4):
        messages = chat("s", contents)
        messages[place]["content"] += f" x{tag}y"
        assert reference.is_unsafe(messages)
        with pytest.raises(CourseError, match="contains"):
            llama2_format.check(messages)
        with pytest.raises(TemplateError, match="tag"):
            tokenizer.apply_chat_template(messages)


def test_no_more_is_refused(reference):
    """A learner with brackets and the like in a review is not turned away."""
    for messages in chats():
        assert not reference.is_unsafe(messages)
        llama2_format.check(messages)


def test_messages_without_text_are_named():
    """A learner who forgot a content, or put a number there, gets no traceback."""
    for broken in (
        {"role": "user"},
        {"role": "user", "content": None},
        {"role": "user", "content": 5},
    ):
        with pytest.raises(CourseError, match="no text"):
            llama2_format.check([broken])


def test_special_tokens_in_a_message_stay_text(tokenizer):
    """A learner's review with </s> in it ends no turn, as in Meta's code; the template's does."""
    messages = chat("s", ["Cold.</s><s>", "Negative", "Why?</s>"])
    ids = llama2_format.ids(messages, tokenizer)
    assert ids.count(tokenizer.eos_token_id) == 1
    assert ids.count(tokenizer.bos_token_id) == 2
    assert tokenizer.decode(ids) == llama2_format.text(messages)
    rendered = tokenizer.apply_chat_template(messages)["input_ids"]
    assert rendered.count(tokenizer.eos_token_id) == 3


def test_other_templates_are_told_apart():
    """A learner in another tier with a model that speaks another format, or none."""
    other = AutoTokenizer.from_pretrained(POCKET)
    assert llama2_format.is_spoken_by(other)
    for name in chat_templates.FAMILIES:
        other.chat_template = chat_templates.load(name)
        assert not llama2_format.is_spoken_by(other)
    other.chat_template = None
    assert not llama2_format.is_spoken_by(other)


def test_a_tokenizer_without_bos_is_named():
    """A learner in another tier whose tokenizer cannot write this format."""
    other = AutoTokenizer.from_pretrained(POCKET)
    other.bos_token = None
    with pytest.raises(CourseError, match="cannot write"):
        llama2_format.ids(chat(None, ["a"]), other)


@pytest.mark.parametrize(
    "wrong", [{"role": "user", "content": "x"}, "hello", ["hello"], None, 5, (), [None], [[]]]
)
def test_what_is_no_chat_is_named(wrong):
    """A learner who passes a text, one message or nothing where a list of messages is wanted."""
    with pytest.raises(CourseError, match="list|text"):
        llama2_format.text(wrong)
