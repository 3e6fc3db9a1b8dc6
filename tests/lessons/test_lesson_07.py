"""Lesson 07's exercises: right answers pass, likely mistakes are told apart by what they did."""

import math

import pytest

from course_utils import checks
from course_utils.exercises import lesson_07


def said(capsys, key, answer):
    """What `check` prints about an answer."""
    checks.check(key, answer)
    return capsys.readouterr().out


# -- 07.1: what is still to do ---------------------------------------------------------------------


def booked(progress):
    """The ids in the files that are not pending."""
    return {one for name, held in progress.items() if ".pending." not in name for one in held}


def by_set(ids, progress):
    done = booked(progress)
    return [one for one in ids if one not in done]


def by_loop(ids, progress):
    left = list(ids)
    for name in progress:
        if not name.endswith(".pending.parquet"):
            for one in progress[name]:
                left.remove(one)
    return left


def by_filter(ids, progress):
    return filter(lambda one: one not in booked(progress), ids)


def by_tuple(ids, progress):
    return tuple(by_set(ids, progress))


def by_dict(ids, progress):
    """A dictionary keeps its order."""
    left = dict.fromkeys(ids)
    for one in booked(progress):
        del left[one]
    return list(left)


def in_place(ids, progress):
    """The mistake of emptying the list that was given."""
    for one in booked(progress):
        ids.remove(one)
    return ids


# -- 07.2: what is wrong with a row ----------------------------------------------------------------


def problem(cell, most):
    if cell is None:
        return "empty"
    if isinstance(cell, bytes):
        try:
            cell = cell.decode("utf-8")
        except UnicodeDecodeError:
            return "not text: no UTF-8"
    if not isinstance(cell, str):
        return f"not text: {type(cell).__name__}"
    if not cell.strip():
        return "empty"
    return f"too long: {len(cell)}" if len(cell) > most else None


def by_match(cell, most):
    """The kinds told apart by pattern."""
    match cell:
        case None:
            return "empty: nothing"
        case bytes():
            try:
                return by_match(cell.decode(), most)
            except ValueError:
                return "not text"
        case str():
            return ("empty" if cell.isspace() or not cell else None) or (
                "too long" if len(cell) > most else None
            )
    return "not text"


def by_exceptions(cell, most):
    """Asking for forgiveness."""
    try:
        cell = "" if cell is None else cell
        text = cell if isinstance(cell, str) else bytes.decode(cell)
    except (UnicodeDecodeError, TypeError):
        return "not text"
    return "empty" if not text.split() else "too long" if len(text) > most else None


def with_table(cell, most):
    """Tests in a table."""
    if isinstance(cell, bytes) and "\ufffd" in cell.decode(errors="replace"):
        return "not text"
    text = cell.decode() if isinstance(cell, bytes) else cell
    tests = {
        "empty": text is None or (isinstance(text, str) and not text.strip()),
        "not text": not isinstance(text, str),
        "too long": isinstance(text, str) and len(text) > most,
    }
    return next((name for name, found in tests.items() if found), None)


def kinder(cell, most):
    """More words behind the kind."""
    found = problem(cell, most)
    return found and f"{found}. Please look at this row."


def changed(find, become):
    """`problem` with one of its answers replaced."""
    return lambda cell, most: (
        become if (problem(cell, most) or "fine").startswith(find) else (problem(cell, most))
    )


def bytes_counted(cell, most):
    """The mistake of counting bytes."""
    size = len(cell.encode()) if isinstance(cell, str) else len(cell) if cell else 0
    return problem(cell, most) or ("too long" if size > most else None)


def no_none(cell, most):
    """The mistake of forgetting that a cell can hold nothing."""
    return "empty" if not cell.strip() else problem(cell, most)


def falsy(cell, most):
    """The mistake of `not cell`, which 0 is too."""
    return "empty" if not cell else problem(cell, most)


def as_text(cell, most):
    """The mistake of turning everything into text."""
    return problem(cell if cell is None else cell if isinstance(cell, bytes) else str(cell), most)


def unread_bytes(cell, most):
    """The mistake of taking all bytes for unreadable."""
    return "not text" if isinstance(cell, bytes) else problem(cell, most)


# -- 07.3: workers for a deadline ------------------------------------------------------------------


def workers(batches, seconds, startup, each, shared):
    left = seconds - startup
    if left <= 0 or batches * shared > left:
        return None
    return max(1, math.ceil(batches * each / left))


def counting_up(batches, seconds, startup, each, shared):
    """Tried one after another."""
    for n in range(1, 100_000):
        if startup + max(batches * each / n, batches * shared) <= seconds + 1e-9:
            return n
    return None


def floor_division(batches, seconds, startup, each, shared):
    left = seconds - startup
    if left > 0 and batches * shared <= left:
        return int(-(-batches * each // left)) or 1
    return None


def as_float(*numbers):
    found = workers(*numbers)
    return None if found is None else float(found)


def by_halving(batches, seconds, startup, each, shared):
    """Between too few and enough."""
    if startup + batches * shared > seconds or startup >= seconds:
        return None
    few, enough = 0, 1 << 20
    while enough - few > 1:
        middle = (few + enough) // 2
        fits = startup + batches * each / middle <= seconds + 1e-9
        few, enough = (few, middle) if fits else (middle, enough)
    return enough


RIGHT = {
    "07.1": [by_set, by_loop, by_filter, by_tuple, by_dict],
    "07.2": [problem, by_match, by_exceptions, with_table, kinder],
    "07.3": [workers, counting_up, floor_division, as_float, by_halving],
}
WRONG = {
    "07.1": [
        (lambda ids, p: [i for i in ids if i not in sum(p.values(), [])], "only announced"),
        (lambda ids, p: sorted(by_set(ids, p)), "not in the order"),
        (lambda ids, p: set(by_set(ids, p)), "order"),
        (lambda ids, p: ids, "is done already"),
        (lambda ids, p: [], "never be labelled"),
        (in_place, "changes what it was given"),
        (lambda ids, p: len(by_set(ids, p)), "list of ids"),
        (
            lambda ids, p: [
                i
                for i in ids
                if i not in {k for n, h in p.items() if "pending" not in n for k in h}
            ],
            "is done already",
        ),
        (lambda ids, p: list(booked(p)), "never be labelled"),
        (lambda ids, p: p["a.parquet"], "never be labelled"),
    ],
    "07.2": [
        (changed("empty", None), "'empty'"),
        (changed("too long", None), "'too long'"),
        (changed("not text", "empty"), "'not text'"),
        (changed("fine", "fine"), "can be labelled"),
        (changed("empty", False), "None, or a text"),
        (bytes_counted, "can be labelled"),
        (no_none, "the job would"),
        (falsy, "'not text'"),
        (as_text, "'not text'"),
        (unread_bytes, "can be labelled"),
        (lambda cell, most: problem(cell, most - 1), "can be labelled"),
        (
            lambda cell, most: problem(cell.decode() if isinstance(cell, bytes) else cell, most),
            "UnicodeDecodeError",
        ),
    ],
    "07.3": [
        (lambda b, s, start, e, sh: math.ceil(b * e / s), "they would need"),
        (lambda b, s, start, e, sh: math.floor(b * e / (s - start)), "they would need"),
        (lambda b, s, start, e, sh: max(1, math.ceil(b * e / max(1, s - start))), "no number of"),
        (lambda b, s, start, e, sh: (workers(b, s, start, e, sh) or 0) + 1, "fewer are enough"),
        (lambda b, s, start, e, sh: None, "can do it"),
        (lambda b, s, start, e, sh: b * e / (s - start) + 0.5, "whole workers"),
        (lambda b, s, start, e, sh: 0, "there has to be one"),
        (lambda b, s, start, e, sh: "two", "a number of workers"),
        (lambda b, s, start, e, sh: max(1, math.ceil(b * (e + sh) / (s - start))), "fewer"),
        (
            lambda b, s, start, e, sh: max(1, math.ceil(b * e / (s - start))),
            "the shared part alone",
        ),
    ],
}
TRIED = [(key, answer) for key, answers in RIGHT.items() for answer in answers]
REFUSED = [(key, *pair) for key, pairs in WRONG.items() for pair in pairs]


@pytest.mark.parametrize(("key", "answer"), TRIED)
def test_right_answers_pass(capsys, key, answer):
    """A learner who is right in their own way is told so."""
    assert "correct" in said(capsys, key, answer)


@pytest.mark.parametrize(("key", "answer", "told"), REFUSED)
def test_a_wrong_answer_hears_what_it_did(capsys, key, answer, told):
    """A learner with a likely mistake: what it did on which input, without a traceback."""
    out = said(capsys, key, answer)
    assert told in out and "correct" not in out and "Traceback" not in out


def test_every_exercise_is_tried_with_enough_answers():
    """A learner of any exercise is protected in the same way."""
    assert set(RIGHT) | {"07.4", "07.5"} == set(lesson_07.EXERCISES), (
        "the others: test_lesson_07_bill"
    )
    for key in RIGHT:
        assert len(RIGHT[key]) >= 5 and len(WRONG[key]) >= 8
