"""Lesson 04: exercises and self-test."""

from collections.abc import Callable
from typing import Any

from course_utils.checks import Exercise, Question, Wrong
from course_utils.memory import fit, predict, shapes


def _extra_bits(answer: Any) -> str:
    """16 bits shared by 128 weights."""
    if not isinstance(answer, int | float):
        raise Wrong("It should be a number.")
    if abs(answer - 128 / 16) < 1e-6:
        raise Wrong("Upside down: the scale is shared by the weights, not the other way round.")
    if abs(answer - 16 / 128) > 1e-6:
        raise Wrong("One scale is kept for each block; how much of it falls to one weight?")
    return "That is the price of blocks; smaller blocks cost more."


def _absmax_int(answer: Callable[..., Any]) -> str:
    """Whole numbers and scale, for 8 and 4 bits, and for zeros."""
    import torch

    weights = torch.tensor([0.5, -1.27, 0.0, 1.0])
    for bits, top in ((8, 127), (4, 7)):
        found = answer(weights, bits)
        if not (isinstance(found, tuple) and len(found) == 2):
            raise Wrong("It should return two things: the whole numbers and the scale.")
        whole, scale = found
        if torch.as_tensor(whole).is_floating_point():
            raise Wrong("The whole numbers should have an integer dtype, like torch.int8.")
        if int(torch.as_tensor(whole).abs().max()) != top:
            raise Wrong(f"At {bits} bits the largest weight should become {top} or -{top}.")
        if not torch.allclose(whole * scale, weights, atol=float(scale) / 2 + 1e-6):
            raise Wrong("Whole numbers times scale should give the weights back, nearly.")
    whole, scale = answer(torch.zeros(4), 8)
    if bool(torch.as_tensor(whole).any()) or bool(torch.isnan(torch.as_tensor(scale)).any()):
        raise Wrong("For weights that are all 0 it should give zeros, and no nan.")
    return "You have written the heart of every 8-bit format."


def _which_fit(answer: Any) -> str:
    """What fits on the card, worked out here too."""
    names = ("fp16", "int8", "nf4")
    if not isinstance(answer, list | tuple | set) or not set(answer) <= set(names):
        raise Wrong(f"It should be a list with some of {', '.join(names)}.")
    config, card = shapes.config("llama-2-13b"), fit.card("RTX 3060")
    true = {name for name in names if fit.fits(config, name, card, length=2048).ok}
    if set(answer) - true:
        raise Wrong("At least one of them needs more than this card has.")
    if true - set(answer):
        raise Wrong("At least one that fits is missing.")
    return "Twelve GB are enough for 13 billion weights, at 4 bits."


def _kv_cache_bytes(answer: Callable[..., Any]) -> str:
    """The formula, against the helper's, on models with and without grouped heads."""
    for name in ("llama-2-7b", "llama-2-70b"):
        config = shapes.config(name)
        found, true = answer(config, 1000), predict.kv_cache(config, "fp16", 1, 1000)
        if found == true:
            continue
        if found in (true * 2, true / 2):
            raise Wrong(f"For {name} it is off by a factor of two: key and value, two bytes each.")
        if name == "llama-2-70b" and found == true * 8:
            raise Wrong("For 70B it is 8 times too large: its query heads share key-value heads.")
        raise Wrong(f"For {name} and 1,000 tokens it gives {found!r}, which is not right.")
    return (
        "70B has fewer KV heads than query heads; without that its cache would be 8 times as big."
    )


EXERCISES = {
    "04.1": Exercise(
        "the price of a scale",
        _extra_bits,
        (
            "All weights of a block use the same scale.",
            "16 bits, divided among the weights that share them.",
            "extra_bits = 16 / 128",
        ),
    ),
    "04.2": Exercise(
        "absmax to integers",
        _absmax_int,
        (
            "It is the lesson's absmax, returned before multiplying back.",
            "If the largest absolute weight is 0, any scale will do, for example 1.",
            "whole = (weights / scale).round().to(torch.int8); return whole, scale",
        ),
    ),
    "04.3": Exercise(
        "13B on 12 GB",
        _which_fit,
        (
            "Section 7 asks this question for every card in a loop.",
            'fit.fits(config, rung, fit.card("RTX 3060"), length=2048).ok is True or False.',
            '[r for r in ("fp16", "int8", "nf4") if fit.fits(big["llama-2-13b"], r, card).ok]',
        ),
    ),
    "04.4": Exercise(
        "the KV cache",
        _kv_cache_bytes,
        (
            "Multiply six numbers, two of which are 2.",
            "config.num_hidden_layers, config.num_key_value_heads; the head size is "
            "config.hidden_size // config.num_attention_heads.",
            "2 * layers * kv_heads * head_size * tokens * 2",
        ),
    ),
}

QUIZ = [
    Question(
        "Which part of a model does bitsandbytes leave in 16 bits?",
        (
            (
                "The attention layers, because they mix the tokens.",
                "Their matrices are linear layers, and are quantized like the others.",
            ),
            (
                "Embeddings, norms and the output head.",
                "Only linear layers in the decoder are quantized; the head chooses between tokens.",
            ),
            (
                "Every second layer, so that errors do not add up.",
                "All decoder layers are treated alike. Print the model and look.",
            ),
        ),
        1,
    ),
    Question(
        "One weight in a row is 50 times as large as the rest. What does absmax over the row do?",
        (
            (
                "It rounds the others to very few levels, often to zero.",
                "The largest value sets the step for all; so blocks have scales of their own.",
            ),
            (
                "It stores the large one in 16 bits and the rest as before.",
                "LLM.int8() does that with whole columns. Absmax alone makes no exception.",
            ),
            (
                "It drops the large weight, as it does not fit.",
                "It fits by definition: the scale is made from the largest one.",
            ),
        ),
        0,
    ),
    Question(
        "What does GPTQ look at that bitsandbytes does not?",
        (
            (
                "How many GPUs the machine has.",
                "Neither of them asks: the numbers come out the same.",
            ),
            (
                "Which words the tokenizer has.",
                "The tokenizer's vocabulary is left alone, and so is the embedding.",
            ),
            (
                "What the layers compute on real texts.",
                "It changes the columns still to be rounded so that the output stays the same.",
            ),
        ),
        2,
    ),
    Question(
        "A 4-bit model is slower than fp16 on your machine. How can that be?",
        (
            (
                "Four bits need more additions for the same product.",
                "The product is computed in 16 bits, as before.",
            ),
            (
                "Weights are unpacked each time before they are used.",
                "Stored small, computed large: it pays where reading memory takes the time.",
            ),
            (
                "The operating system moves small weights to the disk.",
                "A smaller model is less likely to end there, not more.",
            ),
        ),
        1,
    ),
    Question(
        "Why is 70B in 4 bits too large for one 24 GB card?",
        (
            (
                "Its weights take over 33 GiB.",
                "69 billion weights at about four bits; two such cards together hold them.",
            ),
            (
                "Its context is longer than the card allows.",
                "You may use a short one. Work out what the weights take alone.",
            ),
            (
                "bitsandbytes knows no models of that size.",
                "It works layer by layer, and knows no limit.",
            ),
        ),
        0,
    ),
]
