"""Lesson 02: exercises and self-test."""

from collections.abc import Callable
from typing import Any

from course_utils.checks import Exercise, Question, Wrong


def _tokens_per_word(answer: Callable[[Any, str], float]) -> str:
    """tokens_per_word(tokenizer, text), tried on Pocket Llama's tokenizer in every tier."""
    from transformers import AutoTokenizer

    from course_utils.models import POCKET

    tokenizer = AutoTokenizer.from_pretrained(str(POCKET))
    for text in ("Good soup.", "The cappuccino was lukewarm and we waited ages for it."):
        bare = tokenizer(text, add_special_tokens=False)["input_ids"]
        words = len(text.split())
        got = answer(tokenizer, text)
        if not isinstance(got, int | float):
            raise Wrong(f"It should return a number, not {type(got).__name__}.")
        if abs(got - (len(bare) + 1) / words) < 1e-6:
            raise Wrong("It counts the special token at the start as well.")
        if abs(got - words / len(bare)) < 1e-6 and words != len(bare):
            raise Wrong("That is words per token: turn the fraction round.")
        if abs(got - len(text) / len(bare)) < 1e-6:
            raise Wrong("That is characters per token.")
        if abs(got - len(bare) / words) > 1e-6:
            raise Wrong(f"For {text!r} it returned {got:.3f}.")
    return "A model with a larger vocabulary needs fewer tokens for the same words."


def _with_temperature(answer: Callable[[Any, float], Any]) -> str:
    """with_temperature(logits, temperature) against the formula."""
    import torch

    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    for temperature in (1.0, 0.5, 2.0):
        got = answer(logits.clone(), temperature)
        if not isinstance(got, torch.Tensor) or got.shape != logits.shape:
            raise Wrong("It should return a tensor as long as the logits.")
        if abs(got.sum().item() - 1) > 1e-4:
            raise Wrong(f"The probabilities add up to {got.sum().item():.2f}, not to 1.")
        right = (logits / temperature).softmax(-1)
        turned = (logits * temperature).softmax(-1)
        scaled = logits.softmax(-1) / temperature
        if temperature != 1 and torch.allclose(got, turned, atol=1e-4):
            raise Wrong("A high temperature makes yours surer; it should make it less sure.")
        if temperature != 1 and torch.allclose(got, scaled / scaled.sum(), atol=1e-4):
            raise Wrong("The temperature has no effect: it must come in before the softmax.")
        if not torch.allclose(got, right, atol=1e-4):
            raise Wrong(f"At temperature {temperature:g} the values are off.")
    return "At a temperature close to 0 this becomes greedy decoding."


def _nucleus(answer: Callable[[Any, float], Any]) -> str:
    """nucleus(probabilities, top_p): the ids kept, the most probable first."""
    import torch

    cases = [
        ([0.125, 0.5, 0.0625, 0.3125], 0.7, [1, 3]),
        ([0.125, 0.5, 0.0625, 0.3125], 0.9, [1, 3, 0]),
        ([0.125, 0.5, 0.0625, 0.3125], 0.99, [1, 3, 0, 2]),
        ([0.2, 0.8], 0.3, [1]),
    ]
    for values, top_p, right in cases:
        got = answer(torch.tensor(values), top_p)
        got = got.tolist() if isinstance(got, torch.Tensor) else [int(i) for i in got]
        told = f"For probabilities {values} and top_p {top_p:g} it returned {got}"
        if got == right:
            continue
        if sorted(got) == sorted(right):
            raise Wrong(f"{told}: the right ids, but not the most probable first.")
        if not got:
            raise Wrong(f"{told}: at least one token must stay.")
        total = sum(values[i] for i in set(got) if 0 <= i < len(values))
        if total < top_p:
            raise Wrong(f"{told}: together they hold {total:.2f}, which is less than top_p.")
        raise Wrong(f"{told}: more tokens than are needed to reach top_p, or the wrong ones.")
    return "A sure model keeps one token, an unsure one hundreds, with the same top_p."


def _pad_left(answer: Callable[[list[list[int]], int], Any]) -> str:
    """pad_left(rows, pad_id): (ids, mask), both lists of equally long lists."""
    rows = [[5, 6, 7], [8], [9, 4]]
    kept = [list(row) for row in rows]
    got = answer(rows, 0)
    if rows != kept:
        raise Wrong("It changes the rows it was given: make new lists.")
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise Wrong("It should return two things: the ids and the mask.")
    ids, mask = got
    if ids == [[5, 6, 7], [8, 0, 0], [9, 4, 0]]:
        raise Wrong("That is right padding: the new tokens would follow the padding.")
    if ids != [[5, 6, 7], [0, 0, 8], [0, 9, 4]]:
        raise Wrong(f"For {kept} and pad_id 0 the ids are {ids}.")
    if mask == [[0, 0, 0], [1, 1, 0], [1, 0, 0]]:
        raise Wrong("The mask is the wrong way round: 1 means look, 0 means ignore.")
    if mask != [[1, 1, 1], [0, 0, 1], [0, 1, 1]]:
        raise Wrong(f"The ids are right; the mask is {mask}.")
    if list(answer([[2, 7], [3]], 2)) != [[[2, 7], [2, 3]], [[1, 1], [0, 1]]]:
        raise Wrong("A real token that has the padding's id must stay visible: mask by position.")
    return "The mask, not the id, tells the model what to ignore."


def _deciding_word(answer: Callable[[str, Callable[[str], float]], str]) -> str:
    """deciding_word(review, probability), tried with a probability that is plain arithmetic."""
    weight = {"slow": 0.5, "lovely": 0.2, "staff": 0.05}

    def probability(text: str) -> float:
        return 0.1 + sum(weight.get(word, 0.0) for word in text.split())

    tries = [
        ("lovely room but slow staff", "slow"),
        ("lovely staff", "lovely"),
        ("the staff the staff", "staff"),
    ]
    for review, right in tries:
        got = answer(review, probability)
        if not isinstance(got, str) or got not in review.split():
            raise Wrong(f"It should return one of the review's words; it returned {got!r}.")
        if got != right:
            raise Wrong(
                f"For a made-up model that looks at a few words only, {review!r} gave {got!r}."
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
            (
                "About 13 to 14 GB.",
                "fp16 takes two bytes for each parameter.",
            ),
            (
                "About 7 GB.",
                "That is one byte for each: int8.",
            ),
            (
                "About 28 GB.",
                "That is four bytes for each: fp32.",
            ),
        ),
        0,
    ),
    Question(
        "A reply says 'Neither positive nor negative, really.' What should the parser return?",
        (
            (
                "Positive, the first label.",
                "The sentence says the opposite of that word.",
            ),
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
