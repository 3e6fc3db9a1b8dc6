"""Lesson 02's exercises: right answers of every kind pass, wrong ones hear what they did."""

from fractions import Fraction

import pytest
import torch

from course_utils import checks
from course_utils.exercises import lesson_02


def said(capsys, key, answer):
    """What `check` prints about an answer."""
    checks.check(key, answer)
    return capsys.readouterr().out


# -- 02.1 ------------------------------------------------------------------------------------------


def without_specials(tokenizer, text):
    """Counts the ids that are none of the special ones."""
    ids = tokenizer(text)["input_ids"]
    return sum(i not in tokenizer.all_special_ids for i in ids) / len(text.split())


def word_by_word(tokenizer, text):
    """The mistake of cutting each word by itself, without the space before it."""
    words = text.split()
    return sum(len(tokenizer.tokenize(word)) for word in words) / len(words)


def exact(tokenizer, text):
    """A fraction in place of a float."""
    return Fraction(len(tokenizer.tokenize(text)), len(text.split()))


def as_tensor(tokenizer, text):
    """A tensor with one number in it."""
    return torch.tensor(len(tokenizer.tokenize(text)) / len(text.split()))


# -- 02.2 ------------------------------------------------------------------------------------------


def by_hand(logits, t):
    """The formula written out."""
    powers = torch.exp(logits / t)
    return powers / powers.sum()


def listed(logits, t):
    """A list in place of a tensor."""
    return (logits / t).softmax(0).tolist()


def late(logits, t):
    """The mistake of dividing after the softmax and norming again."""
    shares = logits.softmax(-1) / t
    return shares / shares.sum()


def in_place(logits, t):
    """The mistake of changing the logits of the notebook."""
    logits /= t
    return logits.softmax(-1)


# -- 02.3 ------------------------------------------------------------------------------------------


def in_a_loop(p, top_p):
    """Adds up from the top and stops in time."""
    kept, total = [], 0.0
    for i in sorted(range(len(p)), key=lambda i: -p[i]):
        kept.append(i)
        total += p[i].item()
        if total >= top_p:
            return kept
    return kept


def by_sums(p, top_p):
    """Keeps the tokens that have less than top_p before them; answers in a tensor."""
    values, order = p.sort(descending=True)
    return order[values.cumsum(0) - values < top_p]


def by_count(p, top_p):
    """Counts how many sums stay below; answers in zero-dimensional tensors."""
    values, order = p.sort(descending=True)
    return list(order[: int((values.cumsum(0) < top_p).sum()) + 1])


def as_tuple(p, top_p):
    """A tuple in place of a list."""
    return tuple(in_a_loop(p, top_p))


def one_short(p, top_p):
    """The mistake of leaving out the token that reaches top_p."""
    values, order = p.sort(descending=True)
    return order[values.cumsum(0) < top_p].tolist()


def one_more(p, top_p):
    """The mistake of going on where top_p is reached exactly."""
    values, order = p.sort(descending=True)
    return order[values.cumsum(0) - values <= top_p].tolist()


def the_values(p, top_p):
    """The mistake of returning the probabilities, not their places."""
    return [p[i].item() for i in in_a_loop(p, top_p)]


# -- 02.4 ------------------------------------------------------------------------------------------


def pad(rows, pad_id):
    """The ids and the mask, right."""
    longest = max(len(row) for row in rows)
    ids = [[pad_id] * (longest - len(row)) + row for row in rows]
    return ids, [[0] * (longest - len(row)) + [1] * len(row) for row in rows]


def pad_in_tensors(rows, pad_id):
    """Tensors in place of lists."""
    return tuple(torch.tensor(part) for part in pad(rows, pad_id))


def pad_by_insert(rows, pad_id):
    """Copies, and one id put in front at a time; a list of two in place of a tuple."""
    longest, ids, mask = max(map(len, rows)), [], []
    for row in rows:
        row, seen = list(row), [True] * len(row)
        while len(row) < longest:
            row.insert(0, pad_id)
            seen.insert(0, False)
        ids.append(row)
        mask.append(seen)
    return [ids, mask]


def pad_reversed(rows, pad_id):
    """Right padding of the reversed rows, reversed."""
    ids, mask = pad_right([row[::-1] for row in rows], pad_id)
    return [row[::-1] for row in ids], [row[::-1] for row in mask]


def pad_in_tuples(rows, pad_id):
    """Tuples all the way down."""
    return tuple(tuple(map(tuple, part)) for part in pad(rows, pad_id))


def pad_right(rows, pad_id):
    """The mistake of padding on the right."""
    longest = max(map(len, rows))
    ids = [row + [pad_id] * (longest - len(row)) for row in rows]
    return ids, [[1] * len(row) + [0] * (longest - len(row)) for row in rows]


def mask_by_id(rows, pad_id):
    """The mistake of reading the mask off the ids."""
    ids, _ = pad(rows, pad_id)
    return ids, [[int(i != pad_id) for i in row] for row in ids]


def mask_turned(rows, pad_id):
    """The mistake of 1 for padding."""
    ids, mask = pad(rows, pad_id)
    return ids, [[1 - m for m in row] for row in mask]


def pad_in_place(rows, pad_id):
    """The mistake of changing the rows that were given."""
    longest = max(map(len, rows))
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    for row in rows:
        row[:0] = [pad_id] * (longest - len(row))
    return rows, mask


# -- 02.5 ------------------------------------------------------------------------------------------


def without(words, i):
    return " ".join(words[:i] + words[i + 1 :])


def by_min(review, probability):
    words = review.split()
    return words[min(range(len(words)), key=lambda i: probability(without(words, i)))]


def by_fall(review, probability):
    """The largest fall, in place of the smallest rest."""
    words, whole = review.split(), probability(review)
    falls = [whole - probability(without(words, i)) for i in range(len(words))]
    return words[falls.index(max(falls))]


def by_sorting(review, probability):
    words = review.split(" ")
    return sorted((probability(without(words, i)), word) for i, word in enumerate(words))[0][1]


def by_loop(review, probability):
    words, best, least = review.split(), None, float("inf")
    for i, word in enumerate(words):
        if (sure := probability(without(words, i))) < least:
            best, least = word, sure
    return best


def by_pop(review, probability):
    found = {}
    for i, word in enumerate(review.split()):
        rest = review.split()
        rest.pop(i)
        found[word] = probability(" ".join(rest))
    return min(found, key=found.get)


def by_replacing(review, probability):
    """The mistake of cutting the word out of other words too."""
    return min(review.split(), key=lambda word: probability(review.replace(word, "")))


def only_where_it_falls(review, probability):
    """The mistake of looking for falls only: a review may be surer without any of its words."""
    words, best, least = review.split(), None, probability(review)
    for i, word in enumerate(words):
        if probability(without(words, i)) < least:
            best, least = word, probability(without(words, i))
    return best


RIGHT = {
    "02.1": [
        lambda t, x: len(t(x, add_special_tokens=False)["input_ids"]) / len(x.split()),
        lambda t, x: (len(t(x)["input_ids"]) - 1) / len(x.split(" ")),
        without_specials,
        exact,
        as_tensor,
        lambda t, x: len(t.encode(x, add_special_tokens=False)) / (x.count(" ") + 1),
    ],
    "02.2": [
        lambda logits, t: (logits / t).softmax(-1),
        lambda logits, t: torch.nn.functional.softmax(logits * (1 / t), dim=0),
        lambda logits, t: (logits / t).log_softmax(-1).exp(),
        by_hand,
        listed,
        lambda logits, t: (logits.double() / t).softmax(-1),
    ],
    "02.3": [in_a_loop, by_sums, by_count, as_tuple, lambda p, top_p: iter(in_a_loop(p, top_p))],
    "02.4": [pad, pad_in_tensors, pad_by_insert, pad_reversed, pad_in_tuples],
    "02.5": [by_min, by_fall, by_sorting, by_loop, by_pop],
}
WRONG = {
    "02.1": [
        (lambda t, x: len(t(x)["input_ids"]) / len(x.split()), "special token"),
        (lambda t, x: "many", "'many', a str"),
        (lambda t, x: 0.0, "it returned 0.000"),
        (lambda t, x: len(x.split()) / len(t.tokenize(x)), "words per token"),
        (lambda t, x: len(x) / len(t.tokenize(x)), "characters per token"),
        (lambda t, x: len(t.tokenize(x)) / x.count(" "), "spaces were counted"),
        (lambda t, x: len(t.tokenize(x)), "tokens alone"),
        (lambda t, x: len(x) / len(x.split()), "characters per word"),
        (lambda t, x: len(t.tokenize(x)) // len(x.split()), "it returned 1.000"),
        (word_by_word, "For 'The cappuccino"),
        (lambda t, x: None if x else 1, "NoneType"),
    ],
    "02.2": [
        (lambda logits, t: logits / t, "add up"),
        (lambda logits, t: (logits * t).softmax(-1), "other way round"),
        (lambda logits, t: logits.softmax(-1), "no effect"),
        (lambda logits, t: [0.5, 0.5], "no tensor as long as the logits"),
        (late, "before the softmax"),
        (in_place, "changes the logits"),
        (lambda logits, t: (logits - t).softmax(-1), "no effect"),
        (lambda logits, t: logits.softmax(-1) / t, "add up to 2.00"),
        (lambda logits, t: (logits / t).sigmoid(), "add up"),
        (lambda logits, t: (logits / t).softmax(-1).max(), "as long as"),
        (lambda logits, t: logits.softmax(-1) ** t / (logits.softmax(-1) ** t).sum(), "other way"),
        (lambda logits, t: "warm", "no tensor"),
    ],
    "02.3": [
        (lambda p, top_p: p.argsort(descending=True).tolist(), "fewer could reach"),
        (lambda p, top_p: [], "at least one"),
        (lambda p, top_p: p.argsort().tolist()[:1], "less than top_p"),
        (one_short, "less than top_p"),
        (one_more, "fewer could reach"),
        (the_values, "no ids"),
        (lambda p, top_p: p > 0.2, "no ids"),
        (lambda p, top_p: in_a_loop(p, top_p)[::-1], "most probable first"),
        (lambda p, top_p: [1, 1, 3], "twice"),
        (lambda p, top_p: len(in_a_loop(p, top_p)), "no list of ids"),
        (lambda p, top_p: [i for i, x in enumerate(p.tolist()) if x > 1 - top_p], "[0.125"),
        (lambda p, top_p: "1, 3", "no list of ids"),
    ],
    "02.4": [
        (pad_right, "right padding"),
        (mask_by_id, "mask by position"),
        (mask_turned, "wrong way round"),
        (pad_in_place, "changes the rows"),
        (lambda rows, pad_id: pad(rows, 0), "pad_id 3 the ids are"),
        (lambda rows, pad_id: pad(rows, pad_id)[::-1], "the mask comes first"),
        (lambda rows, pad_id: pad(rows, pad_id)[0], "two things"),
        (lambda rows, pad_id: (rows, pad(rows, pad_id)[1]), "the ids are [[5, 6, 7], [8]"),
        (lambda rows, pad_id: (pad(rows, pad_id)[0], rows), "the ids are right; the mask is"),
        (lambda rows, pad_id: (pad(rows, pad_id)[0], [[1] * 3] * 3), "the mask is"),
    ],
    "02.5": [
        (lambda review, p: review.split()[0], "'lukewarm'"),
        (lambda review, p: 3, "one of the review's words"),
        (lambda review, p: 1 / 0, "ZeroDivisionError"),
        (lambda review, p: max(review.split(), key=p), "'lukewarm and not good at all'"),
        (lambda review, p: min(review.split(), key=p), "it returned"),
        (by_replacing, "'is this a lukewarm place'"),
        (only_where_it_falls, "'good staff'"),
        (lambda review, p: review.split().index(by_min(review, p)), "review's words"),
        (lambda review, p: review.replace(by_min(review, p), ""), "review's words"),
        (lambda review, p: max(review.split(), key=len), "sure"),
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
    for key in lesson_02.EXERCISES:
        assert len(RIGHT[key]) >= 5 and len(WRONG[key]) >= 8
