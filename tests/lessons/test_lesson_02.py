"""Lesson 02's exercises: right answers pass, likely mistakes are told apart."""

import pytest

from course_utils import checks
from course_utils.exercises import lesson_02


def said(capsys, key, answer):
    """What `check` prints about an answer."""
    checks.check(key, answer)
    return capsys.readouterr().out


def count_all(tokenizer, text):
    """The mistake of counting the special token."""
    return len(tokenizer(text)["input_ids"]) / len(text.split())


def pad_right(rows, pad_id):
    """The mistake of padding on the right."""
    longest = max(map(len, rows))
    ids = [row + [pad_id] * (longest - len(row)) for row in rows]
    return ids, [[1] * len(row) + [0] * (longest - len(row)) for row in rows]


def mask_by_id(rows, pad_id):
    """The mistake of reading the mask off the ids."""
    longest = max(map(len, rows))
    ids = [[pad_id] * (longest - len(row)) + row for row in rows]
    return ids, [[int(i != pad_id) for i in row] for row in ids]


def all_ids(probabilities, top_p):
    """The mistake of cutting nothing off."""
    return probabilities.argsort(descending=True).tolist()


def least_probable_first(probabilities, top_p):
    """The mistake of sorting the wrong way round."""
    return probabilities.argsort().tolist()[:1]


WRONG = [
    ("02.1", count_all, "special token"),
    ("02.1", lambda tokenizer, text: "many", "number"),
    ("02.1", lambda tokenizer, text: 0.0, "it returned"),
    ("02.2", lambda logits, t: logits / t, "add up"),
    ("02.2", lambda logits, t: (logits * t).softmax(-1), "surer"),
    ("02.2", lambda logits, t: logits.softmax(-1), "no effect"),
    ("02.2", lambda logits, t: [0.5, 0.5], "tensor"),
    ("02.3", all_ids, "more tokens"),
    ("02.3", lambda p, top_p: [], "at least one"),
    ("02.3", least_probable_first, "less than top_p"),
    ("02.4", pad_right, "right padding"),
    ("02.4", mask_by_id, "mask by position"),
    ("02.4", lambda rows, pad_id: rows, "two things"),
    ("02.5", lambda review, probability: review.split()[0], "gave"),
    ("02.5", lambda review, probability: 3, "one of the review's words"),
    ("02.5", lambda review, probability: 1 / 0, "ZeroDivisionError"),
]


@pytest.mark.parametrize("key, answer, told", WRONG)
def test_a_wrong_answer_hears_what_is_wrong(capsys, key, answer, told):
    """A learner with a likely mistake: the check names it, without a traceback."""
    out = said(capsys, key, answer)
    assert told in out and "correct" not in out


def test_temperature_without_effect_is_not_taken_for_scaled(capsys):
    """A learner who divides after the softmax and norms again: told where the division belongs."""

    def late(logits, temperature):
        shares = logits.softmax(-1) / temperature
        return shares / shares.sum()

    assert "before the softmax" in said(capsys, "02.2", late)


def test_every_exercise_has_three_hints_and_a_quiz_question_has_one_right_choice():
    """A learner who is stuck, or wonders why: three hints, and a reason for every answer."""
    assert 3 <= len(lesson_02.EXERCISES) <= 5 and 4 <= len(lesson_02.QUIZ) <= 6
    for exercise in lesson_02.EXERCISES.values():
        assert len(exercise.hints) == 3
    for question in lesson_02.QUIZ:
        assert 0 <= question.right < len(question.choices)
        assert all(why for _, why in question.choices)
