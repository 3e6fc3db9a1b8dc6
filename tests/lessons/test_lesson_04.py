"""Lesson 04's exercises: right answers pass, likely mistakes are told apart by what they did."""

from decimal import Decimal
from fractions import Fraction

import numpy
import pytest
import torch

from course_utils import checks
from course_utils.memory import fit, predict


def said(capsys, key, answer):
    """What `check` prints about an answer."""
    checks.check(key, answer)
    return capsys.readouterr().out


# -- 04.2: absmax to integers ----------------------------------------------------------------------


def rounder(scale=None, dtype=torch.int8, rounding=torch.round, top=None, result=None):
    """An answer to 04.2 with one thing done otherwise."""

    def absmax_int(weights, bits=8):
        most = top(bits) if top else 2 ** (bits - 1) - 1
        step = scale(weights, most) if scale else (weights.abs().max() / most).item() or 1.0
        whole = rounding(weights / step).to(dtype)
        return result(whole, step) if result else (whole, step)

    return absmax_int


def with_where(weights, bits=8):
    """A scale as a tensor, and torch.where for zeros."""
    most = 2 ** (bits - 1) - 1
    scale = torch.where(weights.abs().max() > 0, weights.abs().max() / most, torch.tensor(1.0))
    return torch.round(weights / scale).to(torch.int32), scale


def with_loop(weights, bits=8):
    """Plain Python inside."""
    most = 2 ** (bits - 1) - 1
    step = max((abs(w) for w in weights.tolist()), default=0) / most or 1.0
    return torch.tensor([round(w / step) for w in weights.tolist()]), step


def in_place(weights, bits=8):
    """The mistake of dividing the weights themselves."""
    step = float(weights.abs().max()) / (2 ** (bits - 1) - 1) or 1.0
    weights /= step
    return weights.round().to(torch.int8), step


def always_eight(weights, bits=8):
    """The mistake of a fixed 127."""
    return rounder()(weights, 8)


def one_too_few(weights, bits=8):
    """The mistake of losing the last weight."""
    whole, step = rounder()(weights, bits)
    return whole[:-1], step


# -- 04.4: the KV cache ----------------------------------------------------------------------------


def cache(both=2, layers=True, heads="num_key_value_heads", tokens=True, n_bytes=2, unit=1):
    """An answer to 04.4 with one factor done otherwise."""

    def kv_cache_bytes(config, length):
        found = both * (config.num_hidden_layers if layers else 1) * getattr(config, heads)
        found *= config.hidden_size // config.num_attention_heads * n_bytes
        return found * (length if tokens else 1) / unit

    return kv_cache_bytes


def whole_cache(config, tokens):
    """Whole numbers only, with head_dim."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * tokens * 2


ACCEPTED = {
    "04.1": [16 / 128, Fraction(1, 8), Decimal("0.125"), numpy.float32(0.125), torch.tensor(0.125)],
    "04.2": [
        rounder(),
        rounder(dtype=torch.int16),
        rounder(result=lambda whole, step: [whole, torch.tensor(step)]),
        rounder(result=lambda whole, step: (whole, numpy.float64(step))),
        with_where,
        with_loop,
    ],
    "04.3": [
        ["nf4"],
        ("nf4",),
        {"nf4"},
        {"nf4": True}.keys(),
        numpy.array(["nf4"]),
        [
            rung
            for rung in ("fp16", "int8", "nf4")
            if fit.fits(predict.config("llama-2-13b"), rung, fit.card("RTX 3060"), length=2048).ok
        ],
    ],
    "04.4": [
        cache(),
        whole_cache,
        lambda config, tokens: predict.kv_cache(config, "fp16", 1, tokens),
        lambda config, tokens: torch.tensor(whole_cache(config, tokens)),
        lambda config, tokens, batch=1: numpy.int64(whole_cache(config, tokens) * batch),
    ],
}
REFUSED = {
    "04.1": [
        (8, "Upside down"),
        (16, "whole block's"),
        (2 / 128, "bytes"),
        (4.125, "with the 4 bits"),
        (8.125, "with the 8 bits"),
        (0.25, "bitsandbytes' scale|scale of 32|blocks of 64"),
        ("0.125", "should be a number"),
        (True, "should be a number"),
        ([0.125], "should be a number"),
        (0.13, "0.13 is not it"),
        (-0.125, "is not it"),
        (float("nan"), "is not it"),
    ],
    "04.2": [
        (rounder(scale=lambda w, most: float(w.max()) / most or 1.0), "at 8 bits"),
        (rounder(dtype=torch.float32), "dtype torch.float32"),
        (rounder(dtype=torch.bool), "dtype torch.bool"),
        (rounder(rounding=torch.trunc), "more than half a step"),
        (rounder(rounding=torch.floor), "more than half a step|should be 127|should be 7"),
        (rounder(top=lambda bits: 2 ** (bits - 1)), "should be 127"),
        (rounder(top=lambda bits: 2**bits - 1, dtype=torch.int32), "it should be 127"),
        (rounder(result=lambda whole, step: (whole, float("nan"))), "the scale is nan"),
        (rounder(result=lambda whole, step: whole), "two things"),
        (rounder(result=lambda whole, step: (step, whole)), "should be a tensor"),
        (rounder(result=lambda whole, step: (whole.tolist(), step)), "should be a tensor"),
        (rounder(result=lambda whole, step: (whole, 1 / step)), "more than half a step"),
        (always_eight, r"at 4 bits the largest number is 127; it should be 7"),
        (in_place, "changes the weights"),
        (one_too_few, "3 numbers for 4 weights"),
    ],
    "04.3": [
        ([], "nf4 is missing"),
        (["fp16", "int8", "nf4"], "fp16 is in your list, and RTX 3060: needs"),
        (["int8", "nf4"], "int8 is in your list"),
        (["int8"], "int8 is in your list|nf4 is missing"),
        ("nf4", "should be a list"),
        (["NF4"], "holds 'NF4'"),
        (["nf4-dq"], "holds 'nf4-dq'"),
        ([False, False, True], "holds False"),
        ([("nf4", True)], "should hold names"),
        (True, "should be a list"),
        (3, "should be a list"),
    ],
    "04.4": [
        (cache(both=1), "half of it"),
        (cache(both=1, n_bytes=1), "a quarter"),
        (cache(n_bytes=4), "twice too much"),
        (cache(n_bytes=16), "bits"),
        (cache(heads="num_attention_heads"), "For llama-2-70b .* query heads"),
        (cache(layers=False), "one layer"),
        (cache(tokens=False), "one token"),
        (cache(unit=2**20), "right in MiB"),
        (cache(unit=2**30), "right in GiB"),
        (lambda config, tokens: 2 * 32 * 32 * 128 * tokens * 2, "For llama-2-70b"),
        (lambda config, tokens: f"{whole_cache(config, tokens)} bytes", "should be a number"),
        (lambda config, tokens: 0, "not it"),
        (lambda config: 0, "stopped with TypeError"),
    ],
}


@pytest.mark.parametrize(("key", "answer"), [(k, a) for k, all in ACCEPTED.items() for a in all])
def test_every_right_way_passes(capsys, key, answer):
    """A learner who solves it in another way than we thought of is right all the same."""
    assert f"Exercise {key}: correct." in said(capsys, key, answer)


@pytest.mark.parametrize(
    ("key", "answer", "why"), [(k, *pair) for k, all in REFUSED.items() for pair in all]
)
def test_a_wrong_answer_is_told_what_it_did(capsys, key, answer, why):
    """A learner with a likely mistake reads what the answer did, not what would be right."""
    import re

    text = said(capsys, key, answer)
    assert "correct" not in text and re.search(why, text), text


@pytest.mark.parametrize("key", ACCEPTED)
def test_enough_ways_are_tried(key):
    """A teacher who relies on the checkers: five right ways and eight wrong ones each."""
    assert len(ACCEPTED[key]) >= 5 and len(REFUSED[key]) >= 8


# -- the lesson's own text -------------------------------------------------------------------------


def test_nothing_stays_in_the_temporary_folder():
    """A learner with a 7B model: every folder that a cell makes goes with its block or kernel."""
    from course_staff.notebooks import store as notebooks

    lesson = notebooks.read(notebooks.FOLDER / "04_quantization.ipynb")
    code = [cell.source for cell in lesson.cells if cell.cell_type == "code" and cell.id != "setup"]
    assert not any("mkdtemp" in source for source in code)
    assert any("workshop.cleanup()" in source for source in code)


def test_without_gptq_the_lesson_says_the_next_step_and_goes_on(capsys, monkeypatch):
    """A learner without the extra: how to get it, a recorded row called so, no empty promise."""
    import sys

    from course_staff.notebooks import store as notebooks
    from course_utils import gptq, models
    from course_utils.errors import CourseError
    from course_utils.memory import ladders
    from course_utils.units import size

    monkeypatch.setitem(sys.modules, "gptqmodel", None)  # what Python makes of a missing module
    lesson = notebooks.read(notebooks.FOLDER / "04_quantization.ipynb")
    source = {cell.id: cell.source for cell in lesson.cells}
    names = {"models": models, "config": predict.config("pocket"), "groups": [128], "ladder": {}}
    names |= {"size": size, "CourseError": CourseError, "display": print, "gptq_layouts": None}
    exec(source["gptq-run"], names)
    assert gptq.INSTALL in capsys.readouterr().out
    exec(source["gptq-load"], names)
    assert "recorded on" in capsys.readouterr().out
    assert "gptq" not in ladders.chart({**names["ladder"]}, "x").text, "a recorded speed"
    exec(source["refused"], names)
    assert gptq.INSTALL in capsys.readouterr().out
    names["workshop"].cleanup()


def test_no_step_is_left_out_where_something_is_missing():
    """A learner without an optional part: every cell that says so says the next step too."""
    from course_staff.notebooks import store as notebooks

    lesson = notebooks.read(notebooks.FOLDER / "04_quantization.ipynb")
    cells = [cell for cell in lesson.cells if "why_not()" in cell.source]
    assert len(cells) >= 2
    assert [cell.id for cell in cells if "Next: " not in cell.source] == []
