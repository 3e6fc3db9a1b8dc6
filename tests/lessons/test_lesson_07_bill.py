"""Lesson 07, second half: its exercises tell right from wrong; its formulas; two processes."""

import asyncio
import json
import math
import os
import subprocess
import sys
import time
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from course_staff.notebooks import store
from course_utils import data, models, units
from course_utils.checks import Wrong
from course_utils.exercises import lesson_07_bill
from course_utils.memory import fit


def said(key, answer):
    """What the exercise's check says about an answer."""
    try:
        return f"correct. {lesson_07_bill.EXERCISES[key].test(answer)}"
    except Wrong as wrong:
        return str(wrong)


def full(parts):
    return [(loss, n) for loss, n in parts if n]


def by_loop(parts):
    total = count = 0
    for loss, n in parts:
        if n > 0:
            total, count = total + loss * n, count + n
    return total / count


def by_numpy(parts):
    losses, tokens = np.array(parts, dtype=float).T
    return np.average(losses[tokens > 0], weights=tokens[tokens > 0])


def by_tensor(parts):
    table = torch.tensor(parts)
    return (table[:, 0].nan_to_num() * table[:, 1]).sum() / table[:, 1].sum()


def in_place(parts):
    parts[:] = full(parts)
    return by_loop(parts)


def searched(reviews, rate, start, deadline):
    if deadline <= start:
        return None
    cards = 1
    while cards * rate * (deadline - start) < reviews:
        cards += 1
    return cards


def rounded(how, late=lambda time: time > 0):
    """Cards by some way of rounding."""

    def cards(reviews, rate, start, deadline):
        time = deadline - start
        return how(reviews / (rate * time)) if late(time) else None

    return cards


def whole(reviews, rate, start, deadline):
    """Rounded up with whole numbers alone."""
    done = rate * (deadline - start)
    return -(-reviews // done) if done > 0 else None


ACCEPTED = {
    "07.4": [
        by_loop,
        by_numpy,
        by_tensor,
        lambda parts: sum(l * n for l, n in parts if n) / sum(n for _, n in parts),  # noqa: E741
        lambda parts: float(
            sum(Fraction(x) * n for x, n in full(parts)) / sum(n for _, n in parts)
        ),
        lambda parts: sum(x * n / sum(m for _, m in parts) for x, n in full(parts)),
        lambda parts: math.fsum(x * n for x, n in full(parts)) / math.fsum(n for _, n in parts),
    ],
    "07.5": [
        searched,
        whole,
        rounded(math.ceil),
        rounded(lambda cards: float(np.ceil(cards))),
        rounded(lambda cards: -int(-cards // 1)),
        rounded(lambda cards: torch.tensor(cards, dtype=torch.float64).ceil()),
        rounded(lambda cards: max(1, math.ceil(cards))),
    ],
}
REFUSED = {
    "07.4": [
        ("mean of the means", lambda parts: sum(x for x, _ in full(parts)) / len(parts)),
        ("gives nan", lambda parts: sum(x * n for x, n in parts) / sum(n for _, n in parts)),
        ("not yet divided", lambda parts: sum(x * n for x, n in full(parts))),
        ("divided by the processes", lambda parts: sum(x * n for x, n in full(parts)) / len(parts)),
        ("sum of the means", lambda parts: sum(x for x, _ in full(parts))),
        ("What would one", lambda parts: max(x for x, _ in full(parts))),
        ("What would one", lambda parts: min(x for x, _ in full(parts))),
        ("What would one", lambda parts: parts[0][0]),
        ("What would one", lambda parts: sum(n for _, n in parts)),
        ("What would one", lambda parts: -by_loop(parts)),
        ("What would one", lambda parts: round(by_loop(parts), 1)),
        ("changes the list", in_place),
        ("no number", lambda parts: parts),
        ("no number", lambda parts: "2.5"),
        ("no number", lambda parts: True),
    ],
    "07.5": [
        ("too few", rounded(math.floor)),
        ("too few", rounded(round)),
        ("too few", rounded(int)),
        ("1, 2, 3", rounded(float)),
        ("one card fewer", rounded(lambda cards: int(cards) + 1)),
        ("one card fewer", rounded(lambda cards: math.ceil(cards) + 1)),
        ("one card fewer", rounded(lambda cards: max(2, math.ceil(cards)))),
        ("while the cards start", lambda n, rate, start, end: math.ceil(n / (rate * end))),
        ("say None", rounded(math.ceil, late=lambda time: time != 0)),
        ("say None", lambda n, r, s, e: whole(n, r, s, e) or 1),
        ("cannot be done", lambda n, rate, start, end: None),
        ("cannot be done", lambda *given: None if whole(*given) == 1 else whole(*given)),
        ("too few", lambda n, rate, start, end: 1),
        ("one card fewer", lambda n, rate, start, end: 10_000),
        ("1, 2, 3", lambda n, rate, start, end: 0),
        ("no number", lambda n, rate, start, end: "four"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("key", "answer"), [(k, a) for k, v in ACCEPTED.items() for a in v])
def test_right_answers_pass_however_they_are_written(key, answer):
    """A learner who solved it in another way is not told that they failed."""
    assert "correct" in said(key, answer)


@pytest.mark.parametrize(
    ("key", "remark", "answer"), [(k, r, a) for k, v in REFUSED.items() for r, a in v]
)
def test_wrong_answers_are_told_what_they_did(key, remark, answer):
    """A learner who is nearly there is told what came out on which input."""
    text = said(key, answer)
    assert "correct" not in text and remark in text


@pytest.mark.parametrize("key", lesson_07_bill.EXERCISES)
def test_every_exercise_is_tried_with_enough_answers(key):
    """A maintainer who adds an exercise: both kinds of answers belong with it."""
    assert len(ACCEPTED[key]) >= 5 and len(REFUSED[key]) >= 8


# -- the lesson's cells ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cells():
    """The lesson's code by cell id."""
    books = [store.read(path) for path in sorted(store.FOLDER.glob("07_*.ipynb"))]
    return {cell.id: cell.source for book in books for cell in book.cells}


def run(cells, *ids, **given):
    """What the cells leave behind."""
    left = {"data": data, "math": math, **given}
    for one in ids:
        exec(compile(cells[one], one, "exec"), left)
    return left


def test_the_formula_is_above_what_was_measured(cells, capsys):
    """A learner who plans with the forecast: what the lesson says of these rows is so."""
    from course_utils.memory import predict

    left = run(cells, "bill-bound", "bill-check", predict=predict)
    capsys.readouterr()
    for run_ in left["elsewhere"]["runs"]:
        speed = left["in_turns"](left["mistral"], "RTX 4090", 256, 100, run_["at_once"])
        assert 0.5 < run_["requests_per_second"] / speed < 1
    assert left["shares"] == sorted(left["shares"], reverse=True)
    assert left["shares"][-1] == pytest.approx(11.87 / speed)


def test_as_many_reviews_fit_a_card_as_the_lesson_says(cells, capsys):
    """A learner who sizes a server: the reviews fit the share of the card, and no more do."""
    from course_utils.memory import predict

    prompts = [[0] * 20, [0] * 60]  # with three tokens more 2 pages and 4
    given = {"guessed": lambda *_: None, "prompts": prompts, "tokens_out": 3}
    left = run(cells, "gpu-page", **given)
    capsys.readouterr()
    assert left["paged"] == 48
    for card in fit.cards():
        room = left["room_for_cache"](card)
        if room <= 0:
            assert predict.weights(left["seven"], "fp16").total > 0.8 * card.usable_bytes
            continue
        count = int(room / left["a_token"] // 48)
        by_part = predict.inference(left["seven"], "fp16", batch=count, length=48).parts
        work = predict.activations(left["seven"], "fp16", 1, 2048)
        taken = by_part["weights"] + by_part["kv cache"] + by_part["overhead"] + work
        assert taken <= 0.9 * card.usable_bytes < taken + 48 * left["a_token"]
    assert [left["in_pages"](n) for n in (1, 16, 17, 48)] == [16, 16, 32, 48]


def test_the_bill_adds_up(cells, capsys):
    """A learner who decides by it: each way's dollars and hours are what its parts make."""
    rents = {row["card"]: row for row in data.table("prices")["rent"]}
    rate = 1e6 / 3600 / 2  # a million in two hours
    given = {"rents": rents, "rates": {"L4": rate}, "tokens_in": 40.0, "tokens_out": 5}
    ways = run(cells, "bill-ways", **given)["ways"]
    capsys.readouterr()
    alone = ways(1_000_000, 1.0, 0)
    assert alone["API"] == pytest.approx((40 * 0.4 + 5 * 1.6, 1e6 / 500 / 60))
    assert alone["API by tomorrow"] == pytest.approx((alone["API"][0] / 2, 24))
    assert alone["1 L4"] == pytest.approx((2.25, 2.25))
    assert alone["10 L4"] == pytest.approx((10 * 0.25 + 2, 0.25 + 0.2))
    assert alone["1 L4, spot"][0] == pytest.approx((0.25 + 2.2) * 0.44 / 0.78)
    paid = ways(1_000_000, 1.0, 60)
    assert all(paid[way][1] == alone[way][1] and paid[way][0] > alone[way][0] for way in alone)
    assert ways(2_000_000, 1.0, 0)["API"][0] == pytest.approx(2 * alone["API"][0])


def test_sharding_divides_what_is_kept(cells, capsys):
    """A learner who rents by the table: every card added takes its share, down to what is whole."""
    from course_utils.memory import predict

    left = run(cells, "two-cards", predict=predict, units=units)
    capsys.readouterr()
    on_each_card, seven = left["on_each_card"], predict.config("llama-2-7b")
    for method in ("full", "lora"):
        one, two, many = (on_each_card(seven, method, n, True) for n in (1, 2, 10**9))
        need = left["training"].training(seven, method, 16, 1, 1024, "bf16")
        assert one - two == pytest.approx((need.total - need.parts["activations"]) / 2)
        whole = 2 * predict.weights(seven, "fp16").total / seven.num_hidden_layers
        assert need.parts["activations"] < many < need.parts["activations"] + 2 * whole + 2**30
        alone = on_each_card(seven, method, 8, False)
        assert alone == need.total + need.parts["gradients"] + predict.CUDA_OVERHEAD


class Caller:
    """A client whose answers are the reviews themselves, the later ones first."""

    def __init__(self):
        self.under_way = self.most = 0
        self.chat = self.completions = self

    async def create(self, messages, **_):
        """The review, after a while."""
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        text = messages[-1]["content"]
        for _ in range(100 - int(text)):
            await asyncio.sleep(0)
        self.under_way -= 1
        message = SimpleNamespace(content=text)
        return SimpleNamespace(choices=[SimpleNamespace(message=message)])


@pytest.mark.parametrize("callers", [1, 3, 50])
def test_the_load_test_asks_for_each_review_once(cells, callers):
    """A learner who compares labels under load: they come in the order of the reviews."""
    caller = Caller()
    given = {
        "caller": caller,
        "time": time,
        "server": SimpleNamespace(model="m"),
        "messages": lambda text: [{"content": text}],
        "parse_label": lambda reply: f"label {reply}",
    }
    under_load = run(cells, "load-call", **given)["under_load"]
    texts = [str(n) for n in range(40)]
    labels, seconds, whole = asyncio.run(under_load(texts, callers))
    assert labels == [f"label {text}" for text in texts]
    assert caller.most == min(callers, len(texts)) and len(seconds) == len(texts)
    assert seconds == sorted(seconds) and whole >= seconds[-1]


def test_percentiles_are_waits_that_somebody_had(cells, capsys):
    """A learner who reads p99: it is no mean, and one unlucky caller of a hundred is not in it."""
    waits = [float(n) for n in range(1, 100)] + [1000.0]
    given = {"loads": {1: ([], waits, 50.0)}, "most": 1, "guessed": lambda *_: None}
    left = run(cells, "load-table", **given)
    assert left["speed"] == {1: 2.0} and left["wait"] == {1: 50.0}
    assert "50.00   95.00   99.00" in capsys.readouterr().out
    assert left["percentile"](waits, 1) == 1000 and left["percentile"]([7.0], 0.5) == 7


def test_prices_and_figures_of_cards_have_sources():
    """A learner who doubts a figure of the bill finds where it was read, and when."""
    prices = data.table("prices")
    for part in ("batch", "limit"):
        assert prices[part]["source"].startswith("https://") and prices[part]["date"]
    assert prices["rent_source"].startswith("https://") and prices["rent_date"]
    for row in prices["rent"]:
        assert fit.card(row["card"])
        assert 0 < row["spot_dollars_per_hour"] < row["dollars_per_hour"]
    assert prices["rent"][0]["dollars_per_hour"] == prices["gpu"]["dollars_per_hour"]
    rented = {row["card"] for row in prices["rent"]}
    with_speed = [row for row in data.table("gpus")["cards"] if "tflops" in row]
    assert rented <= {row["name"] for row in with_speed}
    assert all("TFLOPS" in row["source"] for row in with_speed)
    for row in data.table("measured_elsewhere")["runs"]:
        assert row["source"].startswith("https://")


@pytest.mark.slow
def test_two_processes_train_like_one(cells, tmp_path):
    """A learner with several cards gets the training that was tried on one, by DDP and by FSDP."""
    threads = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    texts = [text for text, _ in data.reviews(48, name="market_notes/train.tsv")]
    script = tmp_path / "script.py"
    script.write_text(cells["two-train"] + cells["two-launch"].split('"""')[1])
    found = {}
    for name, at_once, start in (
        ("one", 8, [sys.executable]),
        ("two", 4, [sys.executable, "-m", "accelerate.commands.launch", "--config_file",
                    str(data.FOLDER / "deploy" / "accelerate_cpu.yaml")]),
    ):  # fmt: skip
        given = tmp_path / f"{name}.json"
        given.write_text(json.dumps([str(models.POCKET), texts, at_once]))
        source = script.read_text()
        if name == "one":  # a part of one is nothing to share
            source = source.replace("(False, True)", "(False,)")
        (tmp_path / f"{name}.py").write_text(source)
        command = [*start, str(tmp_path / f"{name}.py"), str(given)]
        ran = subprocess.run(
            command, env={**os.environ, **threads}, capture_output=True, text=True, timeout=1800
        )
        assert ran.returncode == 0, ran.stderr[-3000:]
        found[name] = json.loads((tmp_path / f"{name}.json.out").read_text())
    ((losses, held),) = found["one"]
    (ddp, held_ddp), (fsdp, held_fsdp) = found["two"]
    assert len(losses) == 6 and losses[-1] < losses[0]
    assert ddp == pytest.approx(losses, abs=5e-5)
    assert fsdp == pytest.approx(losses, abs=5e-5)
    assert held == held_ddp and held_fsdp == pytest.approx(held / 2, rel=0.01)
