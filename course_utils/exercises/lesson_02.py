"""Lesson 02: exercises and self-test."""

from collections.abc import Callable
from typing import Any

from course_utils.checks import Exercise, Question, Wrong
from course_utils.exercises import returned


def _tokens_per_word(answer: Callable[[Any, str], float]) -> str:
    """tokens_per_word(tokenizer, text), tried on Pocket Llama's tokenizer in every tier."""
    from transformers import AutoTokenizer

    from course_utils.models import POCKET

    tokenizer = AutoTokenizer.from_pretrained(str(POCKET))
    mistakes = {
        "as if the special token at the start belonged to a word": lambda n, w, c: (n + 1) / w,
        "which is words per token": lambda n, w, c: w / n,
        "which is characters per token": lambda n, w, c: c / n,
        "as if the spaces were counted, and not the words": lambda n, w, c: n / max(1, w - 1),
        "which is the tokens alone": lambda n, w, c: n,
        "which is characters per word": lambda n, w, c: c / w,
    }
    made, tried = set(mistakes), []
    for text in (
        "The cappuccino was lukewarm and we waited ages for it.",
        "Zürich, unbelievably overpriced!",
        "Good soup.",
    ):
        n = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        words = len(text.split())
        told = f"For {text!r} it returned"
        said = answer(tokenizer, text)
        kind = f"{said!r}, a {type(said).__name__}"
        got = returned.number(said, f"{told} {kind}: it should return a number.")
        tried.append((abs(got - n / words) < 1e-6, f"{told} {got:.3f}"))
        made = {m for m in made if abs(mistakes[m](n, words, len(text)) - got) < 1e-6}
    wrong = [told for right, told in tried if not right]
    if wrong:
        raise Wrong(wrong[0] + (f", {min(made)}." if made else ", and that is not right."))
    return "A model with a larger vocabulary needs fewer tokens for the same words."


def _with_temperature(answer: Callable[[Any, float], Any]) -> str:
    """with_temperature(logits, temperature) against the formula."""
    import torch

    for values, temperature in (
        ([2.0, 1.0, 0.0, -1.0], 1.0),
        ([2.0, 1.0, 0.0, -1.0], 0.5),
        ([0.5, -1.5, 3.0], 2.0),
    ):
        logits, given = torch.tensor(values), torch.tensor(values)
        got = answer(given, temperature)
        told = f"For the logits {values} and temperature {temperature:g} it returned"
        try:
            found = torch.tensor(returned.lists(got), dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError):
            found = None
        if found is None or found.shape != logits.shape:
            raise Wrong(f"{told} {got!r}: no tensor as long as the logits.")
        got = found
        if not torch.equal(logits, given):
            raise Wrong(f"It changes the logits it was given, {values}: make a new tensor.")
        told += f" {[round(p, 3) for p in got.tolist()]}"
        right = (logits / temperature).softmax(-1)
        if torch.allclose(got, right, atol=1e-3):
            continue
        if not abs(got.sum().item() - 1) < 1e-3:
            raise Wrong(f"{told}: these add up to {got.sum().item():.2f}, not to 1.")
        if torch.allclose(got, (logits * temperature).softmax(-1), atol=1e-3):
            surer = "surer" if temperature > 1 else "less sure"
            raise Wrong(f"{told}. This makes the model {surer}; it should be the other way round.")
        if torch.allclose(got, logits.softmax(-1), atol=1e-3):
            raise Wrong(f"{told}: the temperature has no effect. It belongs before the softmax.")
        raise Wrong(f"{told}, and these probabilities are not right.")
    return "At a temperature close to 0 this becomes greedy decoding."


def _nucleus(answer: Callable[[Any, float], Any]) -> str:
    """nucleus(probabilities, top_p): the ids kept, the most probable first."""
    import torch

    for values, top_p, right in (
        ([0.125, 0.5, 0.0625, 0.3125], 0.7, [1, 3]),
        ([0.125, 0.5, 0.0625, 0.3125], 0.9, [1, 3, 0]),
        ([0.125, 0.5, 0.0625, 0.3125], 0.99, [1, 3, 0, 2]),
        ([0.25, 0.75], 0.3, [1]),
        ([0.0625, 0.25, 0.125, 0.5, 0.0625], 0.75, [3, 1]),  # reached exactly
    ):
        got = answer(torch.tensor(values), top_p)
        got = returned.lists(got)
        told = f"For probabilities {values} and top_p {top_p:g} it returned"
        try:
            if isinstance(got, str | dict) or any(isinstance(i, str) for i in got):
                raise TypeError
            numbers = [float(i) for i in got]
        except (TypeError, ValueError):
            raise Wrong(f"{told} {got!r}: that is no list of ids.") from None
        told += f" {got}"
        if any(isinstance(i, bool) for i in got) or any(i % 1 for i in numbers):
            raise Wrong(f"{told}: these are no ids, which say at which places the kept ones stand.")
        ids = [int(i) for i in numbers]
        if ids == right:
            continue
        if not ids:
            raise Wrong(f"{told}: at least one token must stay.")
        if len(set(ids)) < len(ids) or not all(0 <= i < len(values) for i in ids):
            raise Wrong(f"{told}: an id stands there twice, or there is no such id.")
        if sorted(ids) == sorted(right):
            raise Wrong(f"{told}: the right ids, but not the most probable first.")
        total = sum(values[i] for i in ids)
        if total < top_p:
            raise Wrong(f"{told}: together they hold {total:.4g}, which is less than top_p.")
        raise Wrong(f"{told}: they hold {total:.4g}, and fewer could reach top_p.")
    return "A sure model keeps one token, an unsure one hundreds, with the same top_p."


def _pad_left(answer: Callable[[list[list[int]], int], Any]) -> str:
    """pad_left(rows, pad_id): (ids, mask), both lists of equally long lists."""
    for rows, pad_id in (
        ([[5, 6, 7], [8], [9, 4]], 0),
        ([[5, 6, 7], [8], [9, 4]], 3),  # an id of its own
        ([[2, 7, 5, 5], [3, 2]], 2),  # a token that looks like padding
        ([[4], [6]], 1),  # nothing to fill
    ):
        longest = max(map(len, rows))
        short = [longest - len(row) for row in rows]
        ids = [[pad_id] * n + row for n, row in zip(short, rows, strict=True)]
        mask = [[0] * n + [1] * len(row) for n, row in zip(short, rows, strict=True)]
        given = [list(row) for row in rows]
        got = returned.lists(answer(given, pad_id))
        if given != rows:
            raise Wrong(f"It changes the rows it was given, {rows}: make new lists.")
        told = f"For the rows {rows} and pad_id {pad_id}"
        if not isinstance(got, list) or len(got) != 2:
            raise Wrong(f"{told} it should return two things, the ids and the mask, not {got!r}.")
        got_ids, got_mask = got
        if got_ids == mask and got_mask == ids and ids != mask:
            raise Wrong(f"{told} the mask comes first: return the ids, then the mask.")
        if got_ids == [row + [pad_id] * n for n, row in zip(short, rows, strict=True)] != ids:
            raise Wrong(f"{told} that is right padding: the new tokens would follow the padding.")
        if got_ids != ids:
            raise Wrong(f"{told} the ids are {got_ids}.")
        if got_mask == [[1 - m for m in row] for row in mask]:
            raise Wrong(f"{told} the mask is {got_mask}: the wrong way round, 1 means look.")
        if got_mask == [[int(i != pad_id) for i in row] for row in ids] != mask:
            raise Wrong(
                f"{told} the mask is {got_mask}: it hides a real token, which only has the "
                "padding's id. Make the mask by position."
            )
        if got_mask != mask:
            raise Wrong(f"{told} the ids are right; the mask is {got_mask}.")
    return "The mask, not the id, tells the model what to ignore."


def _made_up(text: str) -> float:
    """A stand-in for a model: how sure it is of Negative. Words count, company and length."""
    words = text.split()
    sure = (
        0.4
        - 0.02 * len(words)
        + 0.3 * ("slow" in words)
        + 0.1 * ("lukewarm" in words)
        + 0.2 * ("this" in words)
    )
    if "good" in words:
        sure += 0.3 if "not" in words else -0.2
    return sure - 0.05 * ("staff" in words)


def _deciding_word(answer: Callable[[str, Callable[[str], float]], str]) -> str:
    """deciding_word(review, probability), tried with `_made_up`, which is plain arithmetic."""
    for review in (
        "lukewarm soup but slow staff",
        "lukewarm and not good at all",  # "lukewarm" alone is the surest word, "not" decides
        "is this a lukewarm place",  # with "is" cut out of "this", nothing is left of it
        "this is a lukewarm place",  # the first word decides; it holds the second
        "good staff",  # surer without either word
    ):
        words = review.split()
        without = {
            word: _made_up(" ".join(words[:i] + words[i + 1 :])) for i, word in enumerate(words)
        }
        got = answer(review, _made_up)
        told = f"For a made-up model and {review!r} it returned {got!r}"
        if not isinstance(got, str) or got not in words:
            raise Wrong(f"{told}: it should return one of the review's words.")
        least = min(without.values())
        if without[got] > least + 1e-9:
            raise Wrong(
                f"{told}. Without that word the model is {without[got]:.2f} sure; without another "
                f"one only {least:.2f}."
            )
    return "Leaving something out and looking again works on a black box too."


EXERCISES = {
    "02.1": Exercise(
        "tokens per word",
        _tokens_per_word,
        (
            "Two counts and a division: tokens over words.",
            "len(text.split()) counts words; len(tokenizer(text)['input_ids']) counts tokens, "
            "but there is one too many.",
            "tokenizer(text, add_special_tokens=False) leaves the special token out.",
        ),
    ),
    "02.2": Exercise(
        "temperature by hand",
        _with_temperature,
        (
            "The temperature works on the logits, before they become probabilities.",
            "A high temperature brings the logits closer together. Which operation does that?",
            "Divide the logits by the temperature, then .softmax(-1).",
        ),
    ),
    "02.3": Exercise(
        "top-p by hand",
        _nucleus,
        (
            "Go through the tokens from the most probable down, adding up, and stop in time.",
            "probabilities.sort(descending=True) gives the sorted values and their ids.",
            "Keep adding ids to a list and values to a sum; stop once the sum reaches top_p.",
        ),
    ),
    "02.4": Exercise(
        "left padding by hand",
        _pad_left,
        (
            "How long is the longest row, and how much is each row short of it?",
            "[pad_id] * 3 is a list of three; lists are joined with +, the padding first.",
            "The mask of a row is [0] * short + [1] * len(row).",
        ),
    ),
    "02.5": Exercise(
        "the deciding word",
        _deciding_word,
        (
            "Leave each word out in turn, and see how far the probability falls.",
            "words[:i] + words[i + 1:] is the review without word i; ' '.join(...) makes it text.",
            "The deciding word is the one without which the probability is lowest: min(...).",
        ),
    ),
}

QUIZ = [
    Question(
        "What does one forward pass of a language model give for the last position?",
        (
            (
                "The most likely next token, as text, with the spaces around it as they are.",
                "Choosing comes after the forward pass, and so does turning ids into text.",
            ),
            (
                "One score (logit) for every token of the vocabulary.",
                "Choosing from the scores, and appending the choice, is the decoding around it.",
            ),
            (
                "The label of the text, with its probability.",
                "The model knows no labels: to it they are tokens like all others.",
            ),
        ),
        1,
    ),
    Question(
        "Why do you decode output[0, prompt_length:] and not output[0]?",
        (
            (
                "generate returns the prompt too, in front.",
                "A parser that sees the prompt finds the labels your own instructions name.",
            ),
            (
                "The first tokens of every reply are noise.",
                "They are as good as the later ones: the reply often is the first token.",
            ),
            (
                "Decoding fewer tokens is faster.",
                "It is, by nothing you would notice. Look at what the first tokens say.",
            ),
        ),
        0,
    ),
    Question(
        "Temperature close to 0, what happens?",
        (
            (
                "All tokens become about equally likely to be drawn.",
                "That is a very high temperature.",
            ),
            (
                "The model answers with fewer tokens than before.",
                "Temperature does not touch the length; a limit or the end token does.",
            ),
            (
                "Nearly always the likeliest token is drawn.",
                "Small temperatures pull the logits apart: it becomes greedy decoding.",
            ),
        ),
        2,
    ),
    Question(
        "Why does a batch need left padding when you generate?",
        (
            (
                "Because the tokenizer of Llama reads a text from right to left.",
                "It reads from left to right, as you do.",
            ),
            (
                "So that the new tokens follow the text and not the padding.",
                "They are appended at the right; with right padding they continue the padding.",
            ),
            (
                "Because right padding takes more memory.",
                "Both take the same: the rows are equally long.",
            ),
        ),
        1,
    ),
    Question(
        "7 billion parameters in fp16: how much memory for the weights alone?",
        (
            ("About 13 to 14 GB.", "fp16 takes two bytes for each parameter."),
            ("About 7 GB.", "That is one byte for each: int8."),
            ("About 28 GB.", "That is four bytes for each: fp32."),
        ),
        0,
    ),
    Question(
        "A reply says 'Neither positive nor negative, really.' What should the parser return?",
        (
            ("Positive, the first label.", "The sentence says the opposite of that word."),
            (
                "Neutral, for that is what is meant.",
                "Perhaps. But a parser that reads between the lines guesses, and hides it.",
            ),
            (
                "Unparsed, since no single label is given.",
                "A parser that says so lets you count such replies, and read them.",
            ),
        ),
        2,
    ),
]
