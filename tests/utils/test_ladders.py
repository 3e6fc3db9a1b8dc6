"""Lesson 04's table and chart, and the reference runs that fill a gap in them."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from course_utils import explorers, models
from course_utils.errors import CourseError
from course_utils.memory import fit, ladders, predict, tensors

MEASURED = {
    "predicted": 9_961_472,
    "measured": 9_961_472,
    "load s": 0.1,
    "tokens/s": 470.0,
    "right": 158,
    "reviews": 200,
    "same": 1.0,
    "perplexity": 181.85,
}
RECORDED = {
    "predicted": 4_960_000,
    "measured": 4_960_000,
    "load s": 1.2,
    "tokens/s": 389.0,
    "recorded": "recorded on a processor, 2026-11-24",
}


def test_a_recorded_rung_is_marked_as_recorded():
    """A learner without GPTQ: that row says whose numbers it holds, and what nobody measured."""
    config = predict.config("pocket")
    shown = ladders.table({"fp16": MEASURED, "gptq-4bit": RECORDED}, config)
    _, fp16, gptq, note = shown.text.splitlines()
    assert "0.790 (0.73 to 0.84)" in fp16 and "100.0%" in fp16 and "*" not in fp16
    assert gptq.startswith("gptq-4bit*") and gptq.split()[-3:] == ["-", "-", "-"]
    assert note.startswith("* recorded on a processor, 2026-11-24")
    assert "gptq-4bit*" in shown.html and "<script" not in shown.html


def test_a_recorded_speed_stands_in_no_measured_chart():
    """A learner without GPTQ: 389 tokens/s of another machine do not tower over this one's."""
    picture = ladders.chart({"fp16": MEASURED, "gptq-4bit": RECORDED}, "Pocket Llama")
    assert picture.png and picture.text.startswith("Measured, Pocket Llama")
    assert "fp16" in picture.text and "gptq" not in picture.text


def test_a_rung_with_fewer_reviews_says_so():
    """A learner whose LLM.int8() writes one token a second: the interval is that of 32 reviews."""
    few = {**MEASURED, "predicted": 1, "right": 24, "reviews": 32}
    shown = ladders.table({"fp16": MEASURED, "int8": few}, predict.config("pocket"))
    assert "0.750 (0.58 to 0.87)" in shown.text
    assert shown.text.splitlines()[-1] == "int8: 32 of 200 reviews, for lack of time"


def test_the_ladder_fits_a_narrow_window():
    """A learner at 900 pixels: no line of the HTML table is wider than 80 letters together."""
    shown = ladders.table({"fp16": MEASURED, "gptq-4bit": RECORDED}, predict.config("pocket"))
    rows = re.findall(r"<tr>(.*?)</tr>", shown.html)
    cells = [re.findall(r">([^<>]*(?:<br>[^<>]*)*)</t[dh]>", row) for row in rows]
    widths = [
        max(max(map(len, cell.split("<br>"))) for cell in column)
        for column in zip(*cells, strict=True)
    ]
    assert len(widths) == 10 and sum(widths) < 80


def test_a_change_is_signed_and_has_an_interval():
    """A learner who reads a loss: NF4 that gains a point does not "lose at most 3 points"."""
    true = ["Positive"] * 100 + ["Negative"] * 100
    before = true[:190] + ["Positive"] * 10
    found = ["Negative"] * 2 + true[2:195] + ["Positive"] * 5
    moved = ladders.change(found, before, true)
    assert (moved["better"], moved["worse"]) == (5, 2)
    assert moved["points"] == pytest.approx(1.5)
    # by hand: (3 / 202 -+ 1.96 sqrt((8 / 202 - (3 / 202)^2) / 202)) x 100
    assert (moved["low"], moved["high"]) == pytest.approx((-1.252, 4.222), abs=0.01)
    same = ladders.change(true, true, true)
    assert same["points"] == 0 and same["low"] == -same["high"] < 0, "nothing seen is not certain"


def test_a_whole_run_is_shown_as_recorded():
    """A learner who never leaves the pocket tier: a real model's ladder, and whose it is."""
    run = run_of(predict.config("pocket"), "x")
    run["model"]["name"] = "smollm2"
    fp16 = {"rung": "fp16", "predicted": {"weights_bytes": 400}, "quality": None}
    fp16["measured"] = {"weights_bytes": 400, "load_s": 1.0, "decode_tokens_s": 26.0}
    run["rungs"].append(fp16)
    head, gptq, base, note = ladders.of_run(run).text.splitlines()
    assert head.split()[0] == "rung" and gptq.split()[-3:] == ["0.25", "50", "2.40"]
    assert base.split()[-1] == "-" and note.startswith("smollm2, recorded on a processor")


def run_of(config, fingerprint):
    """A reference run with one GPTQ rung."""
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
    return {
        "date": "2026-11-24",
        "device": {"name": "a processor"},
        "model": {
            "weights": "checkpoint",
            "fingerprint": fingerprint,
            "config": {key: getattr(config, key) for key in keys},
        },
        "rungs": [
            {"rung": "gptq-8bit", "skipped": "no room"},
            {
                "rung": "gptq-4bit",
                "predicted": {"weights_bytes": 100},
                "measured": {"weights_bytes": 101, "load_s": 1.0, "decode_tokens_s": 50.0},
                "quality": {"perplexity": 2.4, "right": 150, "reviews": 200, "same_as_fp16": 0.99},
            },
        ],
        "exchange": [],
    }


def test_recorded_quality_is_that_of_the_same_weights(monkeypatch):
    """A learner with a newer Pocket Llama: bytes still hold, an older training's accuracy not."""
    config = predict.config("pocket")
    for fingerprint, known in ((models.fingerprint(models.POCKET), True), ("other", False)):
        monkeypatch.setattr(ladders, "runs", lambda mark=fingerprint: [run_of(config, mark)])
        row = ladders.recorded(config, models.POCKET, "gptq-4bit")
        assert row["measured"] == 101 and "a processor" in row["recorded"]
        assert ("right" in row) == known
        assert ladders.recorded(config, models.POCKET, "gptq-8bit") is None
        assert ladders.recorded(config, models.POCKET, "nf4") is None
    assert ladders.recorded(predict.config("llama-2-7b"), models.POCKET, "gptq-4bit") is None
    assert ladders.exchange(config) is None


def test_the_reference_runs_are_the_scripts_own_and_of_this_model():
    """A learner who trusts a recorded number: the script wrote it, and it is about this model."""
    for path in sorted(ladders.FOLDER.glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        assert run["made_by"] in ("course_utils.record", "course_staff record") and run[
            "command"
        ].startswith("python -m")
        assert run["date"] and run["device"]["name"] and run["versions"]["torch"]
        assert str(models.POCKET.parent) not in path.read_text(encoding="utf-8")
        for rung in run["rungs"]:
            assert rung["freed_to_the_byte"], rung["rung"]
            if "measured" in rung:
                predicted = rung["predicted"]["weights_bytes"]
                assert rung["measured"]["weights_bytes"] == pytest.approx(predicted, rel=0.01)
        wrong = [row for row in run["exchange"] if not row["right"]]
        assert all("unchecked" in row["how"] for row in wrong)
    shipped = ladders.of_model(predict.config("pocket"))
    assert shipped, "Pocket Llama's sizes changed. Record it again: make record"
    assert "gptq-4bit" in [rung["rung"] for rung in shipped["rungs"]]


def test_one_tensor_out_of_a_sharded_checkpoint(tmp_path):
    """A learner with Llama-2-7b on Colab: looking at a row does not load 13 GB."""
    save_file({"a": torch.ones(2, dtype=torch.float16)}, tmp_path / "model-1.safetensors")
    save_file({"b": torch.zeros(2, dtype=torch.int32)}, tmp_path / "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = tensors.from_checkpoint(tmp_path, "a")
    assert found.dtype == torch.float32 and found.tolist() == [1, 1]
    for name in ("b", "c"):  # packed integers, and nothing of that name
        with pytest.raises(CourseError, match=f"no {name} in the safetensors"):
            tensors.from_checkpoint(tmp_path, name)


def test_the_picture_of_the_formats_has_every_bit():
    """A learner who counts the boxes: as many bits as the name says."""
    for line in explorers.formats().text.splitlines():
        name, parts = line[:9].strip(), line[9:]
        bits = sum(int(part.split()[0]) for part in parts.split(", "))
        assert bits == {"fp32": 32, "bf16": 16, "fp16": 16, "int8": 8, "NF4, FP4": 4}[name]


@pytest.fixture
def live(monkeypatch):
    """A learner at the screen: widgets, no pictures in their place."""
    monkeypatch.setenv("COURSE_STATIC", "0")


def test_the_sliders_answer(live):
    """A learner who plays with bits and cards: the picture follows, and says its numbers."""
    row = torch.randn(256, generator=torch.Generator().manual_seed(0))
    box = explorers.rounding(row)
    bits, block, outlier, result = box.children
    before = result.value
    bits.value = 2
    assert result.value != before and "2 bits" in result.value
    box = explorers.vram()
    model, rung, batch, length, card, count, result = box.children
    assert "T4: fits" in result.value
    model.value, rung.value, card.value = "llama-2-70b", "nf4-dq", "RTX 3090"
    assert "does not fit" in result.value
    count.value = 2
    assert "2 x RTX 3090: fits" in result.value
    assert "RTX 5090" in card.options
    assert set(card.options) == {one.name for one in fit.cards()}
