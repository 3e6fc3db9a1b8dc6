"""Lesson 03's exercises: right answers of every kind pass, wrong ones hear what they did."""

import itertools
import re

import pytest

from course_utils import checks
from course_utils.chat import llama2_format
from course_utils.exercises import lesson_03

RIGHT = llama2_format.text(lesson_03.CHAT)
MARKS = lesson_03.MARKS
SYSTEM = "{% if m.role == 'system' %}{{ m.content + ' ' }}"
USER = "{% elif m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}"
REST = "{% else %}{{ 'ASSISTANT: ' + m.content + '</s>' }}{% endif %}"
ROLES = SYSTEM + USER + REST
LAST = "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
VICUNA = "{% for m in messages %}" + ROLES + "{% endfor %}" + LAST
INDENTED = """
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
        {{- message['content'] -}} {{- ' ' -}}
    {%- elif message['role'] == 'user' -%}
        {{- 'USER: ' ~ message['content'] ~ ' ' -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- 'ASSISTANT: ' ~ message['content'] ~ eos_token -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- 'ASSISTANT:' -}}
{%- endif -%}
"""
BY_TABLE = (
    "{% set before = {'system': '', 'user': 'USER: ', 'assistant': 'ASSISTANT: '} %}"
    "{% set after = {'system': ' ', 'user': ' ', 'assistant': '</s>'} %}"
    "{% for m in messages %}{{ before[m.role] + m.content + after[m.role] }}{% endfor %}"
    "{{ 'ASSISTANT:' if add_generation_prompt else '' }}"
)
FIRST_APART = (
    "{% if messages[0].role == 'system' %}{{ messages[0].content }} {% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m.role == 'user' %}USER: {{ m.content }} {% else %}"
    "ASSISTANT: {{ m.content }}</s>{% endif %}{% endfor %}" + LAST
)
BY_MACRO = (
    "{% macro said(name, m, end) %}{{ name }}: {{ m.content }}{{ end }}{% endmacro %}"
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }} {% elif m.role == 'user' %}"
    "{{ said('USER', m, ' ') }}{% else %}{{ said('ASSISTANT', m, '</s>') }}{% endif %}{% endfor %}"
    + LAST
)


def said(capsys, key, answer):
    """What `check` prints about an answer."""
    checks.check(key, answer)
    return capsys.readouterr().out


# -- 03.1: one prompt, written in many ways --------------------------------------------------------


def by_f_string():
    """Each turn by a function."""
    system, first, answer, last = (message["content"] for message in lesson_03.CHAT)

    def turn(user):
        return f"<s>[INST] {user} [/INST]"

    return turn(f"<<SYS>>\n{system}\n<</SYS>>\n\n{first}") + f" {answer} </s>" + turn(last)


IN_LINES = """<s>[INST] <<SYS>>
Answer with one word.
<</SYS>>

Nice staff. [/INST] Positive </s><s>[INST] Cold soup. [/INST]"""


# -- 03.2 ------------------------------------------------------------------------------------------


def without_special_ids(tokenizer, prompt_ids, output_ids):
    """Leaves the special ids out before decoding."""
    new = output_ids[len(prompt_ids) :]
    return tokenizer.decode([i for i in new if i not in tokenizer.all_special_ids])


def up_to_eos(tokenizer, prompt_ids, output_ids):
    """Cuts at the first EOS, where there is one."""
    new = output_ids[len(prompt_ids) :]
    if tokenizer.eos_token_id in new:
        new = new[: new.index(tokenizer.eos_token_id)]
    return tokenizer.decode(new).strip()


def in_a_batch(tokenizer, prompt_ids, output_ids):
    """As a batch of one."""
    return tokenizer.batch_decode([output_ids[len(prompt_ids) :]], skip_special_tokens=True)[0]


def from_behind(tokenizer, prompt_ids, output_ids):
    """Counts from the end."""
    count = len(output_ids) - len(prompt_ids)
    return tokenizer.decode(output_ids[-count:], skip_special_tokens=True).strip()


def whole(tokenizer, prompt_ids, output_ids):
    """Fault 3: the prompt is decoded too."""
    return tokenizer.decode(output_ids, skip_special_tokens=True)


def split_at(place):
    """The mistake of cutting at a tag that a prompt or a reply may hold elsewhere."""
    return lambda t, p, o: whole(t, p, o).split("[/INST]")[place]


def by_removing(tokenizer, prompt_ids, output_ids):
    """The mistake of taking the prompt's text out, wherever it stands."""
    prompt = tokenizer.decode(prompt_ids, skip_special_tokens=True)
    return whole(tokenizer, prompt_ids, output_ids).replace(prompt, "")


def with_specials(tokenizer, prompt_ids, output_ids):
    """The mistake of leaving </s> in."""
    return tokenizer.decode(output_ids[len(prompt_ids) :])


def last_cut_off(tokenizer, prompt_ids, output_ids):
    """The mistake of taking the last id for EOS: a reply may be cut off before."""
    return tokenizer.decode(output_ids[len(prompt_ids) : -1])


# -- 03.3 ------------------------------------------------------------------------------------------


def by_index(ids, bos):
    """Looks at each place."""
    return any(ids[i - 1] == bos and ids[i] == bos for i in range(1, len(ids)))


def by_groups(ids, bos):
    """Counts runs of equal ids."""
    runs = [(one, len(list(run))) for one, run in itertools.groupby(ids)]
    return max((length for one, length in runs if one == bos), default=0) > 1


def by_text(ids, bos):
    """As text, with borders around every id."""
    return f",{bos},{bos}," in "," + ",".join(map(str, ids)) + ","


def by_state(ids, bos):
    """Remembers the id before."""
    before = None
    for one in ids:
        if one == before == bos:
            return 1
        before = one
    return 0


# -- 03.4 ------------------------------------------------------------------------------------------


def strip_once(text):
    """The hole that the lesson shows."""
    return MARKS.sub("", text)


def strip_all(text):
    """Looks again until nothing changes."""
    while (new := strip_once(text)) != text:
        text = new
    return text


def strip_by_replacing(text):
    """Without a pattern: every mark, as long as any is there."""
    marks = ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>"]
    while any(mark in text for mark in marks):
        for mark in marks:
            text = text.replace(mark, "")
    return text


def strip_by_calling(text):
    """Calls itself."""
    return strip_by_calling(strip_once(text)) if MARKS.search(text) else text


def strip_one_mark_after_the_other(text):
    """The mistake of being done with a mark that a later one may build."""
    for mark in ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<s>", "</s>"]:
        while mark in text:
            text = text.replace(mark, "")
    return text


def strip_times(times):
    """The mistake of looking again a fixed number of times."""

    def strip(text):
        for _ in range(times):
            text = strip_once(text)
        return text

    return strip


def strip_brackets(text):
    """The mistake of taking away everything in brackets."""
    return re.sub(r"\[.*?\]|<.*?>", "", text)


def strip_tags_only(text):
    """The mistake of forgetting the special tokens."""
    while (new := re.sub(r"\[/?INST\]|<</?SYS>>", "", text)) != text:
        text = new
    return text


ACCEPTED = {
    "03.1": [
        RIGHT,
        by_f_string(),
        IN_LINES,
        "<s>[INST] "
        + "<<SYS>>\nAnswer with one word.\n<</SYS>>\n\nNice staff."
        + RIGHT.partition("Nice staff.")[2],
        "".join(RIGHT),
    ],
    "03.2": [
        lambda t, p, o: t.decode(o[len(p) :], skip_special_tokens=True),
        without_special_ids,
        up_to_eos,
        in_a_batch,
        from_behind,
        lambda t, p, o: t.decode(o[len(p) :]).replace(t.eos_token, "").strip(),
    ],
    "03.3": [
        lambda ids, bos: any(a == b == bos for a, b in zip(ids, ids[1:], strict=False)),
        by_index,
        by_groups,
        by_text,
        by_state,
        lambda ids, bos: (bos, bos) in itertools.pairwise(ids),
    ],
    "03.4": [
        strip_all,
        strip_by_replacing,
        strip_by_calling,
        lambda text: MARKS.sub(" ", text),
        lambda text: MARKS.sub("(mark)", text),
    ],
    "03.5": [VICUNA, INDENTED, BY_TABLE, FIRST_APART, BY_MACRO],
}
REFUSED = {
    "03.1": [
        (5, "and is a int"),
        (RIGHT.removeprefix("<s>"), "It begins with '[INST] <<S'"),
        (RIGHT + " ", "goes on: ' '"),
        (RIGHT.replace("Positive </s>", "Positive</s>"), "right up to"),
        (RIGHT.removesuffix(" [/INST]"), "too early"),
        (RIGHT.replace("</s><s>[INST]", "</s>"), "what follows"),
        (RIGHT.replace("\n\n", "\n"), "what follows: 'Nice staff. "),
        (RIGHT.replace("\n<</SYS>>", "<</SYS>>"), "what follows: '<</SYS>>"),
        (RIGHT.replace("</s><s>", "</s> <s>"), "what follows: ' <s>[INST] C'"),
        (list(RIGHT), "is a list"),
        (lesson_03.CHAT, "is a list"),
    ],
    "03.2": [
        (whole, "it returned '[INST]"),
        (split_at(-1), "a reply that holds a tag"),
        (split_at(1), "two turns"),
        (lambda t, p, o: whole(t, p, o).split("[/INST]", 1)[1], "two turns"),
        (by_removing, "repeats the prompt"),
        (with_specials, "special token"),
        (last_cut_off, "cut off, without EOS"),
        (lambda t, p, o: o[len(p) :], "a list"),
        (lambda t, p, o: t.decode(o[len(p) + 1 :], skip_special_tokens=True), "one turn"),
        (lambda t, p, o: " ".join(up_to_eos(t, p, o).split()), "filled up"),
        (lambda t, p, o: t.decode(p, skip_special_tokens=True), "one turn"),
    ],
    "03.3": [
        (lambda ids, bos: ids.count(bos) > 1, "two proper turns"),
        (lambda ids, bos: ids[:2] == [bos, bos], "before the second turn"),
        (lambda ids, bos: any(a == b for a, b in zip(ids, ids[1:], strict=False)), "no BOS"),
        (lambda ids, bos: (1, 1) in itertools.pairwise(ids), "need not be 1"),
        (lambda ids, bos: str(bos) * 2 in "".join(map(str, ids)), "the same digit"),
        (
            lambda ids, bos: any(a and a == b == bos for a, b in itertools.pairwise(ids)),
            "BOS id of 0",
        ),
        (lambda ids, bos: "no" if bos in ids else "", "one turn"),
        (lambda ids, bos: by_index(ids[:-1], bos), "two BOS at the end"),
        (lambda ids, bos: not by_index(ids, bos), "one turn, one BOS"),
        (lambda ids, bos: ids[0] == ids[1] == bos if len(ids) > 1 else False, "second turn"),
    ],
    "03.4": [
        (strip_once, "leaves, or builds"),
        (strip_times(2), "leaves, or builds"),
        (strip_times(20), "leaves, or builds"),
        (strip_brackets, "stay as it is"),
        (strip_tags_only, "the mark '</s>'"),
        (strip_one_mark_after_the_other, "leaves, or builds"),
        (lambda text: MARKS.split(text)[0], "takes away more"),
        (lambda text: "" if MARKS.search(text) else text, "takes away more"),
        (lambda text: " ".join(strip_all(text).split()), "stay as it is"),
        (lambda text: re.sub(r"[\[\]<>]", "", text), "stay as it is"),
        (lambda text: None, "it returned None"),
        (lambda text: strip_all(text).lower(), "stay as it is"),
    ],
    "03.5": [
        ("{% for m in messages %}", "Jinja stops with TemplateSyntaxError"),
        ("{{ nothing.at.all }}", "Jinja stops with UndefinedError"),
        (VICUNA.replace("{% if add_generation_prompt %}", "{% if 1 %}"), "prompt=False)"),
        (VICUNA.replace("{{ 'ASSISTANT:' }}", ""), "add_generation_prompt=True"),
        (VICUNA.replace("</s>", ""), "For user, assistant"),
        (VICUNA.replace("m.role == 'system'", "false"), "For system"),
        (VICUNA.replace("'USER: '", "'USER:'"), "right up to 'USER:'"),
        (VICUNA.replace("{% for", "\n{% for"), "It begins with"),
        (VICUNA.replace("{{ 'ASSISTANT:' }}", "{{ 'ASSISTANT: ' }}"), "goes on: ' '"),
        ("{{ bos_token }}" + VICUNA, "It begins with '<s>"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        (lesson_03.CHAT, "is a list"),
    ],
}
TRIED = [(key, answer) for key, answers in ACCEPTED.items() for answer in answers]


@pytest.mark.parametrize(("key", "answer"), TRIED)
def test_right_answers_pass(capsys, key, answer):
    """A learner who is right in their own way is told so."""
    assert "correct" in said(capsys, key, answer)


@pytest.mark.parametrize(
    ("key", "answer", "told"), [(key, *pair) for key, pairs in REFUSED.items() for pair in pairs]
)
def test_a_wrong_answer_hears_what_it_did(capsys, key, answer, told):
    """A learner who is nearly there is told what is wrong on which input, and not the answer."""
    text = said(capsys, key, answer)
    assert told in text and "correct" not in text and "Traceback" not in text
    assert RIGHT not in text and "len(prompt_ids)" not in text


def test_every_exercise_is_tried_with_enough_answers():
    """A learner of any exercise is protected in the same way."""
    for key in lesson_03.EXERCISES:
        assert len(ACCEPTED[key]) >= 5 and len(REFUSED[key]) >= 8


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
