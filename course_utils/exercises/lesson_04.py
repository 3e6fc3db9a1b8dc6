"""Lesson 04: exercises and self-test."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from course_utils.checks import Exercise, Question, Wrong
from course_utils.exercises import returned
from course_utils.memory import fit, predict, shapes


def _number(answer: Any, what: str = "It") -> float:
    """The answer as a float, whatever kind of number it is; a text or True is none."""
    return returned.number(answer, f"{what} should be a number; it is {_short(answer)}.")


def _short(answer: Any) -> str:
    """An answer as a message shows it."""
    text = repr(answer)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _extra_bits(answer: Any) -> str:
    """16 bits shared by 128 weights."""
    found = _number(answer)
    if math.isclose(found, 16 / 128, rel_tol=1e-6):
        return "That is the price of blocks; smaller blocks cost more."
    why = {
        128 / 16: "Upside down: the scale is shared by the weights, not the other way round.",
        2 / 128: "That is bytes. A scale of 16 bits; how many of them fall to one weight?",
        4 + 16 / 128: "That is with the 4 bits of the weight. How much does the scale add?",
        8 + 16 / 128: "That is with the 8 bits of the weight. How much does the scale add?",
        16: "That is the whole block's scale. How much of it falls to one of the 128 weights?",
        32 / 128: "That would be a scale of 32 bits, like bitsandbytes'. Here it has 16.",
        16 / 64: "That would be blocks of 64 weights. Here they have 128.",
    }
    near = (said for value, said in why.items() if math.isclose(found, value, rel_tol=1e-6))
    raise Wrong(
        next(near, f"{found:g} is not it: a block's one scale is shared by all its weights.")
    )


def _absmax_int(answer: Callable[..., Any]) -> str:
    """Whole numbers and scale, for 8 and 4 bits, for a weight beyond, and for zeros."""
    import torch

    for values in ([0.5, -1.27, 0.0, 1.0], [3.0, 0.4, -0.7, 2.2, 1.1], [0.0, 0.0, 0.0]):
        for bits, top in ((8, 127), (4, 7)):
            asked = f"For the weights {values} at {bits} bits"
            weights = torch.tensor(values)
            found = answer(weights, bits)
            if weights.tolist() != torch.tensor(values).tolist():
                raise Wrong(f"{asked} it changes the weights it was given. Work on a copy.")
            if not (isinstance(found, tuple | list) and len(found) == 2):
                raise Wrong(
                    f"{asked} it returns {_short(found)}; it should be two things: the whole "
                    "numbers and the scale."
                )
            _check_rounded(asked, weights, top, *found)
    return "You have written the heart of every 8-bit format."


def _check_rounded(asked: str, weights: Any, top: int, whole: Any, scale: Any) -> None:
    """Raise `Wrong` unless whole numbers and scale are absmax's."""
    import torch

    if not torch.is_tensor(whole):
        raise Wrong(f"{asked} the whole numbers are {_short(whole)}; they should be a tensor.")
    if whole.is_floating_point() or whole.is_complex() or whole.dtype == torch.bool:
        raise Wrong(
            f"{asked} the whole numbers have dtype {whole.dtype}. They should have an integer "
            "one, like torch.int8."
        )
    step = _number(scale, f"{asked} the scale")
    if not math.isfinite(step):
        raise Wrong(f"{asked} the scale is {step}. Nothing may be divided by zero.")
    if whole.shape != weights.shape:
        raise Wrong(f"{asked} it returns {whole.numel()} numbers for {weights.numel()} weights.")
    largest = int(whole.long().abs().max())
    if weights.any() and largest != top:
        raise Wrong(f"{asked} the largest number is {largest}; it should be {top} or -{top}.")
    restored = whole * step
    off = (restored - weights).abs()
    if float(off.max()) > abs(step) / 2 + 1e-6:
        worst = int(off.argmax())
        raise Wrong(
            f"{asked} whole numbers times scale make {restored[worst]:.3f} of "
            f"{weights[worst]:.3f}: off by more than half a step ({step:.3f})."
        )


def _which_fit(answer: Any) -> str:
    """What fits on the card, worked out here too."""
    names = ("fp16", "int8", "nf4")
    if isinstance(answer, str | dict) or not isinstance(answer, Iterable):
        raise Wrong(f'It should be a list of names, like ["fp16"]; it is {_short(answer)}.')
    given = list(answer)
    if odd := [one for one in given if one not in names]:
        raise Wrong(f"It holds {_short(odd[0])}; it should hold names: some of {', '.join(names)}.")
    config, card = shapes.config("llama-2-13b"), fit.card("RTX 3060")
    for name in names:
        found = fit.fits(config, name, card, length=2048)
        if found.ok != (name in given):
            mark = "is in your list" if name in given else "is missing from your list"
            raise Wrong(f"{name} {mark}, and {found}.")
    return "Twelve GB are enough for 13 billion weights, at 4 bits."


def _kv_cache_bytes(answer: Callable[..., Any]) -> str:
    """The formula, against the helper's, on models with and without grouped heads."""
    for name, tokens in (("llama-2-7b", 1000), ("llama-2-70b", 1000), ("pocket", 3)):
        config = shapes.config(name)
        true = predict.kv_cache(config, "fp16", 1, tokens)
        asked = f"For {name} and {tokens:,} tokens"
        found = _number(answer(config, tokens), f"{asked} it")
        if math.isclose(found, true, rel_tol=1e-9):
            continue
        layers = config.num_hidden_layers
        sizes = {
            true * 2: "twice too much: two bytes for each number in fp16, four in fp32.",
            true / 2: "half of it: a key and a value are kept, and each number takes two bytes.",
            true / 4: "a quarter: a key and a value are kept, and each number takes two bytes.",
            true * 8: "8 times too much. Are these bits, or do query heads count where key-value "
            "heads should?",
            true / layers: "what one layer keeps; every layer keeps its own.",
            true / tokens: "what one token takes.",
            true / 2**20: "right in MiB; it should be bytes.",
            true / 2**30: "right in GiB; it should be bytes.",
        }
        near = (why for n, why in sizes.items() if math.isclose(found, n, rel_tol=1e-3))
        why = next(near, "not it: multiply 2, layers, KV heads, head_dim, tokens and bytes.")
        raise Wrong(f"{asked} it gives {found:,.6g}, which is {why}")
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
            '[r for r in ("fp16", "int8", "nf4") if fit.fits(llamas["llama-2-13b"], r, '
            'fit.card("RTX 3060"), length=2048).ok]',
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
