"""Lesson 03's exercises: right answers pass, likely mistakes are told apart."""

import re

import pytest

from course_utils import checks
from course_utils.chat import llama2_format
from course_utils.exercises import lesson_03

RIGHT = llama2_format.text(lesson_03.CHAT)
MARKS = lesson_03.MARKS
VICUNA = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content + ' ' }}"
    "{% elif m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m.content + '</s>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def said(capsys, key, answer):
    """What `check` prints about an answer."""
    checks.check(key, answer)
    return capsys.readouterr().out


def whole(tokenizer, prompt_ids, output_ids):
    """Fault 3: the prompt is decoded too."""
    return tokenizer.decode(output_ids, skip_special_tokens=True)


def by_replacing(tokenizer, prompt_ids, output_ids):
    """The mistake of cutting the prompt off by its text."""
    prompt = tokenizer.decode(prompt_ids, skip_special_tokens=True)
    last = prompt.split()[-2]
    return tokenizer.decode(output_ids, skip_special_tokens=True).replace(last, "").split("]")[-1]


def with_specials(tokenizer, prompt_ids, output_ids):
    """The mistake of leaving </s> in."""
    return tokenizer.decode(output_ids[len(prompt_ids) :])


def strip_once(text):
    """The hole that the lesson shows."""
    return MARKS.sub("", text)


def strip_brackets(text):
    """The mistake of taking away everything in brackets."""
    return re.sub(r"\[.*?\]|<.*?>", "", text)


def strip_tags_only(text):
    """The mistake of forgetting the special tokens."""
    while (new := re.sub(r"\[/?INST\]|<</?SYS>>", "", text)) != text:
        text = new
    return text


ACCEPTED = {
    "03.1": [RIGHT],
    "03.2": [
        lambda t, p, o: t.decode(o[len(p) :], skip_special_tokens=True),
        lambda t, p, o: t.decode(o[len(p) : -1]).strip(),
    ],
    "03.3": [
        lambda ids, bos: any(a == b == bos for a, b in zip(ids, ids[1:], strict=False)),
        lambda ids, bos: f",{bos},{bos}," in "," + ",".join(map(str, ids)) + ",",
    ],
    "03.5": [VICUNA],
}
REFUSED = {
    "03.1": {
        "not a text": 5,
        "begin": RIGHT.removeprefix("<s>"),
        "goes on": RIGHT + " ",
        "right up to": RIGHT.replace("Positive </s>", "Positive</s>"),
        "too early": RIGHT.removesuffix(" [/INST]"),
        "what follows": RIGHT.replace("</s><s>[INST]", "</s>"),
    },
    "03.2": {
        "it returned": whole,
        "returned '": by_replacing,
        "special token": with_specials,
        "returned a list": lambda t, p, o: o[len(p) :],
    },
    "03.3": {
        "two proper turns": lambda ids, bos: ids.count(bos) > 1,
        "before the second turn": lambda ids, bos: ids[:2] == [bos, bos],
        "no BOS": lambda ids, bos: any(a == b for a, b in zip(ids, ids[1:], strict=False)),
        "need not be 1": lambda ids, bos: any(
            a == b == 1 for a, b in zip(ids, ids[1:], strict=False)
        ),
    },
    "03.4": {
        "sly": strip_once,
        "stay as it is": strip_brackets,
        "leaves '</s>'": strip_tags_only,
        "takes away more": lambda text: MARKS.split(text)[0] if MARKS.search(text) else text,
    },
    "03.5": {
        "Jinja stops with TemplateSyntaxError": "{% for m in messages %}",
        "Jinja stops with UndefinedError": "{{ nothing.at.all }}",
        "add_generation_prompt=False": VICUNA.replace(
            "{% if add_generation_prompt %}", "{% if 1 %}"
        ),
        "add_generation_prompt=True": VICUNA.replace("{{ 'ASSISTANT:' }}", ""),
        "For user, assistant": VICUNA.replace("</s>", ""),
        "For system": VICUNA.replace("m.role == 'system'", "false"),
    },
}


def strip_all(text):
    """The mended function."""
    while (new := strip_once(text)) != text:
        text = new
    return text


@pytest.mark.parametrize(("key", "answer"), [(k, a) for k, v in ACCEPTED.items() for a in v])
def test_right_answers_pass(capsys, key, answer):
    """A learner who is right in their own way is told so."""
    assert "correct" in said(capsys, key, answer)


def test_the_mended_strip_passes(capsys):
    """A learner whose function looks again."""
    assert "correct" in said(capsys, "03.4", strip_all)


@pytest.mark.parametrize(
    ("key", "remark", "answer"), [(k, r, a) for k, v in REFUSED.items() for r, a in v.items()]
)
def test_likely_mistakes_are_told_apart(capsys, key, remark, answer):
    """A learner who is nearly there is told what is wrong, and not the answer."""
    text = said(capsys, key, answer)
    assert "correct" not in text
    if remark not in ("not a text",):
        assert remark in text
    assert RIGHT not in text and "len(prompt_ids)" not in text


@pytest.mark.parametrize("key", lesson_03.EXERCISES)
def test_every_exercise_has_three_hints_and_an_untouched_answer(capsys, key):
    """A learner who is stuck, and one who has not begun."""
    assert len(lesson_03.EXERCISES[key].hints) == 3

    def starter(*_):
        return ...

    assert checks.NOT_ANSWERED in said(capsys, key, ...)
    assert checks.NOT_ANSWERED in said(capsys, key, starter)


def test_a_crash_in_an_answer_is_a_message(capsys):
    """A learner whose function stops sees what it stopped with, and no traceback."""
    for key in ("03.2", "03.3", "03.4"):
        text = said(capsys, key, lambda *_: 1 / 0)
        assert "ZeroDivisionError" in text and "Traceback" not in text
