"""Lesson 06: exercises tell right from wrong, bad input ends in messages, a recording plays."""

import json
import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch

from course_staff.notebooks import executing, store
from course_staff.recording import lesson as recording
from course_utils import checks, models
from course_utils.errors import CourseError
from course_utils.exercises import lesson_06
from course_utils.fetching import lesson_model, recorded
from course_utils.sentiment import local_batch

LESSON = store.FOLDER / "06_a_real_model.ipynb"


def said(capsys, key, answer):
    """What `check` prints about an answer."""
    checks.check(key, answer)
    return capsys.readouterr().out


def next_by_loop(done, choices):
    found = []
    for choice in choices:
        if len(choice) > len(done) and all(a == b for a, b in zip(done, choice, strict=False)):
            found.append(choice[len(done)])
    return found


def next_by_tree(done, choices):
    tree = {}
    for choice in choices:
        place = tree
        for token in choice:
            place = place.setdefault(token, {})
    for token in done:
        tree = tree[token]
    return tree.keys()


def right_of(line, odds, labels):
    return sum((o > line) == (t == "Positive") for o, t in zip(odds, labels, strict=True))


def between(odds, labels):
    """The best of the lines half-way between neighbours, and of two outside."""
    ordered = sorted(odds)
    lines = [(a + b) / 2 for a, b in zip(ordered, ordered[1:], strict=False)]
    return max(
        [ordered[0] - 1, *lines, ordered[-1] + 1], key=lambda line: right_of(line, odds, labels)
    )


def by_grid(odds, labels):
    return max(np.arange(-10, 10, 0.05), key=lambda line: right_of(line, odds, labels))


def off(chances, came, weigh=True, group=lambda chance: chance):
    """The mean distance, group by group; unweighted or in other groups, a wrong one."""
    groups = {}
    for chance, true in zip(chances, came, strict=True):
        groups.setdefault(group(chance), []).append((chance, true))
    parts = [
        (len(rows), abs(sum(c for c, _ in rows) - sum(t for _, t in rows)) / len(rows))
        for rows in groups.values()
    ]
    if not weigh:
        return sum(distance for _, distance in parts) / len(parts)
    return sum(n * distance for n, distance in parts) / len(chances)


ACCEPTED = {
    "06.1": [
        lambda d, c: {x[len(d)] for x in c if x[: len(d)] == d and len(x) > len(d)},
        lambda d, c: [x[len(d)] for x in c if x[: len(d)] == d != x],
        lambda d, c: sorted({x[len(d)] for x in c if x[: len(d)] == d and x != d}),
        lambda d, c: torch.tensor([x[len(d)] for x in c if x[: len(d)] == d != x]),
        next_by_loop,
        next_by_tree,
    ],
    "06.2": [
        lambda o, t: max([min(o) - 1, *o], key=lambda line: right_of(line, o, t)),
        between,
        by_grid,
        lambda o, t: np.float64(between(o, t)),
        lambda o, t: Fraction(between(o, t)),
        lambda o, t: torch.tensor(between(o, t)),
    ],
    "06.3": [
        off,
        lambda c, t: np.float64(off(c, t)),
        lambda c, t: torch.tensor(off(c, t), dtype=torch.float64),
        lambda c, t: off(c, t, group=lambda chance: round(chance, 6)),
        lambda c, t: off(c, t, group=str),
        lambda c, t: off(np.array(c), np.array(t)),
    ],
}
REFUSED = {
    "06.1": [
        ("it allows", lambda d, c: {t for x in c for t in x}),
        ("it allows", lambda d, c: {x[len(d)] for x in c if len(x) > len(d)}),
        ("does not allow", lambda d, c: {next(x[len(d)] for x in c if x[: len(d)] == d)}),
        ("does not allow", lambda d, c: []),
        ("it allows", lambda d, c: {x[0] for x in c if x[: len(d)] == d}),
        ("it allows", lambda d, c: {x[-1] for x in c if x[: len(d)] == d}),
        ("a list of token ids", lambda d, c: 5),
        ("a list of token ids", lambda d, c: "5, 6"),
        ("a list of token ids", lambda d, c: [x[len(d) :] for x in c if x[: len(d)] == d]),
        ("nothing more", lambda d, c: next_by_loop(d, c) or [9]),
    ],
    "06.2": [
        ("right, and", lambda o, t: 0.0),
        ("right, and", lambda o, t: float(np.median(o))),
        ("right, and", lambda o, t: float(np.mean(o))),
        ("right, and", lambda o, t: min(o)),
        ("right, and", lambda o, t: max(o)),
        ("right, and", lambda o, t: -between([-one for one in o], t)),
        ("right, and", lambda o, t: float("inf")),
        ("no number", lambda o, t: [0.0, 1.0]),
        ("no number", lambda o, t: "high"),
        ("nan", lambda o, t: math.nan),
    ],
    "06.3": [
        ("one by one", lambda c, t: sum(abs(a - b) for a, b in zip(c, t, strict=True)) / len(c)),
        ("one by one", lambda c, t: sum((a - b) ** 2 for a, b in zip(c, t, strict=True)) / len(c)),
        ("cancel out", lambda c, t: abs(sum(c) - sum(t)) / len(c)),
        ("it gives", lambda c, t: off(c, t, weigh=False)),
        ("it gives", lambda c, t: sum(c) / len(c)),
        ("it gives", lambda c, t: 1 - off(c, t)),
        ("it gives", lambda c, t: 100 * off(c, t)),
        ("no number", lambda c, t: [off(c, t)] * 2),
        ("no number", lambda c, t: "little"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("key", "answer"), [(k, a) for k, v in ACCEPTED.items() for a in v])
def test_right_answers_pass_however_they_are_written(capsys, key, answer):
    """A learner who solved it in another way is not told that they failed."""
    assert "correct" in said(capsys, key, answer)


@pytest.mark.parametrize(
    ("key", "remark", "answer"), [(k, r, a) for k, v in REFUSED.items() for r, a in v]
)
def test_wrong_answers_are_told_what_they_did(capsys, key, remark, answer):
    """A learner who is nearly there is told what came out on which input."""
    text = said(capsys, key, answer)
    assert "correct" not in text and remark in text


@pytest.mark.parametrize("key", lesson_06.EXERCISES)
def test_an_untouched_answer_and_a_crash_are_messages(capsys, key):
    """A learner who has not begun, and one whose function stops."""
    assert checks.NOT_ANSWERED in said(capsys, key, lambda *_: ...)
    text = said(capsys, key, lambda *_: 1 / 0)
    assert "ZeroDivisionError" in text and "Traceback" not in text


# -- the lesson's cells, with Pocket Llama in the place of SmolLM2 ---------------------------------


def cells():
    """The lesson's code by cell id."""
    return {cell.id: cell.source for cell in store.read(LESSON).cells}


@pytest.fixture(scope="module")
def names():
    """The names that sections 1 to 3 define, with Pocket Llama taken for any other model."""
    found = {"models": models, "pd": pd, "local_batch": local_batch, "exam_texts": ["Good."]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_MODEL", str(models.POCKET))
        for cell in ("load", "exam", "wordings", "asker", "bound-ids", "json-asked", "grammar"):
            exec(cells()[cell], found)
    return found


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        (["Good", "Good enough"], "first token"),
        (["Positive", "Positive"], "first token"),
        (["Positive", ""], "cannot say"),
        (["Positive", "</s>"], "cannot say"),
        (["Positive", " Negative "], "cannot say"),
    ],
)
def test_labels_that_cannot_be_scored_are_refused(names, labels, what):
    """A learner with labels of their own: one that begins another, one outside the vocabulary."""
    with pytest.raises(CourseError, match=what):
        names["label_tokens"](labels)


@pytest.mark.parametrize("text", [None, float("nan"), 3, b"good"])
def test_a_review_that_is_no_text_is_a_message(names, text):
    """A learner whose table has an empty cell."""
    with pytest.raises(CourseError, match="no text"):
        names["ask"](names["WORDINGS"]["the article's"], [text])


def test_an_enormous_review_is_a_message_and_an_empty_one_is_answered(names):
    """A learner who pastes a book, and one who sends nothing; the model works on."""
    ask, wording = names["ask"], names["WORDINGS"]["form"]
    with pytest.raises(CourseError, match="too long"):
        ask(wording, ["good soup " * 5_000])
    replies, logits = ask(wording, ["", "   ", "Good."])
    assert len(replies) == 3 and logits.shape == (3, names["model"].config.vocab_size)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 5, "maximum": 1},
        {"enum": []},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"type": "nonsense"},
        {"type": "string", "pattern": "(?=a)b"},
    ],
)
def test_a_schema_that_nothing_fits_is_a_message(names, schema):
    """A learner whose schema contradicts itself is told so before the model writes for nothing."""
    grammar = names["LLMatcher"].grammar_from_json_schema(schema)
    with pytest.raises(CourseError, match="Nothing can be written"):
        names["Bounded"](grammar)


def test_a_bounded_reply_is_valid_whoever_writes_it(names, capsys):
    """A learner whose program reads the JSON: whatever the model knows."""
    exec(cells()["json-bound"].replace("ordinary[:200]", "ordinary[:30]"), names)
    assert "valid: 30 of 30" in capsys.readouterr().out
    assert {tuple(json.loads(form)) for form in names["forms"]} == {("sentiment", "stars")}


def test_a_label_of_several_tokens_is_written_whole(names):
    """A learner with another tokenizer: the constraint goes on until the label is there."""
    names["exam_texts"], names["odds"] = ["Good soup.", "Bad soup."], {}
    names["labels_from"] = lambda odds: []
    exec(cells()["allowed"].replace("odds[chosen][:10]", "[]"), names)
    assert set(names["replies_of_two"]) <= {"Positive", "Negative"}
    assert max(map(len, names["label_ids"])) > 1


# -- the recorded run -----------------------------------------------------------------------------


class Shell:
    """What IPython's shell has of what a recording uses."""

    def __init__(self):
        self.input_transformers_cleanup, self.handlers = [], []

    def set_custom_exc(self, kinds, handler):
        """Keep what would explain an error."""
        self.handlers.append((kinds, handler))

    def run(self, cell):
        """What would be run for this cell."""
        lines = cell.splitlines(keepends=True)
        for transform in self.input_transformers_cleanup:
            lines = transform(lines)
        return "".join(lines)


@pytest.fixture
def shell(monkeypatch, tmp_path):
    """A kernel on a machine without SmolLM2; the recording holds two cells."""
    import IPython

    one = Shell()
    monkeypatch.setattr(IPython, "get_ipython", lambda: one)
    monkeypatch.setattr(models, "is_here", lambda name: None)
    monkeypatch.setenv("COURSE_MODEL", "")
    for name in ("HF_HUB_OFFLINE", "COURSE_SWITCHED_THE_HUB_OFF"):
        monkeypatch.setenv(name, "1")
    yield one
    recorded._stop()


def test_without_the_model_unchanged_cells_show_what_was_recorded(shell, capsys):
    """A learner without a network reads the lesson with its outputs, and is told whose they are."""
    assert "recorded on 20" in lesson_model("06") and "FETCH = True" in lesson_model("06")
    source = cells()["ask"]
    assert shell.run("1 + 1\n") == "1 + 1\n", "the learner's own cells run"
    assert shell.run(cells()["ex-1"]) == cells()["ex-1"], "exercises run"
    shown = shell.run(f"\n{source}\n\n")
    assert shown != source
    exec(shown)
    told = capsys.readouterr().out
    assert told.startswith("(recorded)\n") and "of 100" in told and "made no guess" not in told
    shell.handlers[-1][1](shell, NameError, NameError("name 'model' is not defined"), None)
    assert "recorded run" in capsys.readouterr().out


def test_a_fetch_that_fails_is_one_line_and_the_recording(shell, monkeypatch):
    """A learner who asks for the model without a network goes on reading."""

    def nowhere():
        raise CourseError("Neither the hub nor PyPI can be reached.", "", "Connect and try again.")

    monkeypatch.setattr(recorded, "get", nowhere)
    told = lesson_model("06", fetch=True)
    assert told.startswith("Neither the hub nor PyPI") and "recorded on" in told
    assert shell.run(cells()["ask"]) != cells()["ask"]


def test_with_the_model_or_another_nothing_is_played(shell, monkeypatch):
    """A learner who fetched the model later, in the same kernel, sees their own run."""
    lesson_model("06")
    monkeypatch.setattr(models, "is_here", lambda name: models.POCKET)
    assert "SmolLM2" in lesson_model("06") and shell.run(cells()["ask"]) == cells()["ask"]
    monkeypatch.setenv("COURSE_MODEL", "pocket")
    assert "COURSE_MODEL=pocket" in lesson_model("06")
    assert shell.run(cells()["ask"]) != cells()["ask"]


def test_the_recording_is_the_stored_run():
    """A learner without the model sees what the notebook shows, cell by cell; none is left out."""
    run = json.loads(recording.path_of("06").read_text(encoding="utf-8"))
    assert run["cells"] == json.loads(json.dumps(recording.cells(store.read(LESSON))))
    assert {"date", "device", "versions", "command"} <= run.keys()


@pytest.mark.slow
def test_the_whole_lesson_can_be_read_without_the_model(tmp_path, monkeypatch):
    """A learner without a network runs all cells: none fails, all show the recorded run."""
    for name in ("COURSE_CACHE", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    book = store.read(LESSON)
    with executing.as_a_program():
        executing.client(LESSON, book).execute()
    told = {cell.id: cell.outputs for cell in book.cells if cell.cell_type == "code"}
    assert "SmolLM2 is not on this machine" in told["fetch"][0].text
    held = {cell.id for cell in recording.recorded_cells(book)}
    for name, outputs in told.items():
        first = outputs[0].get("text", "") if outputs else ""
        assert first.startswith("(recorded)") == (name in held), name
