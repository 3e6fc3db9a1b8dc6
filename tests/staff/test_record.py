"""The script that writes reference runs, on a tiny model and the CPU."""

import json
import re
from pathlib import Path

import pytest
import torch

from course_staff.recording import build as record_build
from course_staff.recording import gguf, ladder, quality, record
from course_utils import data
from course_utils.errors import CourseError
from course_utils.memory import measured as memory
from course_utils.memory import predict
from course_utils.models import POCKET
from tests.utils import wheel_stand_in

TINY = {
    "model_type": "llama",
    "vocab_size": 200,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
FAST = ["--length", "16", "--new-tokens", "2", "--repeats", "1"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny config.json, with a folder for the runs beside it."""
    folder = tmp_path_factory.mktemp("tiny")
    path = folder / "tiny.json"
    path.write_text(json.dumps(TINY))
    return path


def run(out, *arguments):
    """The reference run that the command line writes."""
    assert record.main([*arguments, *FAST, "--out", str(out)]) == 0
    (path,) = out.glob("*.json")
    return json.loads(path.read_text())


@pytest.mark.slow
def test_a_run_holds_what_the_lesson_shows(tiny, tmp_path, capsys):
    """A learner who reads a recorded number: it says device, versions, date and command."""
    found = run(
        tmp_path, "--config", str(tiny), "--rungs", "fp16", "int8", "nf4-dq", "gptq-4bit-32g"
    )
    assert found["made_by"] == "course_staff record"
    assert found["command"].startswith("python -m course_staff record --config tiny.json")
    assert str(tmp_path) not in json.dumps(found)
    assert found["device"]["name"] and found["date"] and found["versions"]["torch"]
    assert found["model"]["weights"].startswith("random")
    assert found["copy_bandwidth_gb_s"] > 0
    *measured, gptq = found["rungs"]
    for rung in measured:
        predicted, seen = rung["predicted"], rung["measured"]
        assert seen["weights_bytes"] == pytest.approx(predicted["weights_bytes"], rel=0.01)
        assert seen["parts"].keys() == predicted["parts"].keys()
        assert seen["peak_bytes"] > seen["weights_bytes"]
        assert seen["prefill_tokens_s"] > 0 and seen["decode_tokens_s"] > 0
        assert len(seen["decode_s"]) == 1 and seen["build_s"] > 0
        assert rung["freed_to_the_byte"], capsys.readouterr().out
    assert "cannot be made while loading" in gptq["skipped"] and gptq["freed_to_the_byte"]


@pytest.mark.slow
def test_a_checkpoint_is_recorded_too(tmp_path):
    """An instructor who records a model of their own: its folder is enough."""
    found = run(tmp_path, "--model", str(POCKET), "--rungs", "nf4")
    (rung,) = found["rungs"]
    assert found["model"]["name"] == "pocket_llama" and found["model"]["weights"] == "checkpoint"
    assert rung["measured"]["load_s"] > 0 and rung["freed_to_the_byte"]
    assert "pocket_llama" in found["command"] and str(POCKET.parent) not in found["command"]


@pytest.mark.slow
def test_training_peaks(tiny, tmp_path):
    """A learner of lesson 05: LoRA's and QLoRA's peaks, with and without checkpointing."""
    words = ("--config", str(tiny), "--rungs", "--training", "lora", "qlora", "--rank", "4")
    run(tmp_path / "warm", *words)  # what PyTorch and peft keep from their first step is in no peak
    found = run(tmp_path / "measured", *words)
    kept, plain = {}, {}
    for entry in found["training"]:
        assert entry["freed_to_the_byte"]
        m = entry["measured"]
        assert m["peak_bytes"] > m["base_bytes"] and m["trainable_parameters"] > 0
        (kept if m["gradient_checkpointing"] else plain)[m["method"]] = m["peak_bytes"]
    assert kept.keys() == plain.keys() == {"lora", "qlora"}
    assert kept["lora"] < plain["lora"] and kept["qlora"] < plain["qlora"]


@pytest.mark.slow
def test_streaming_never_holds_all_16_bit_weights():
    """Someone who records 70B on a card of 80 GB: only one layer at a time is in 16 bits."""
    from transformers import LlamaConfig

    config = LlamaConfig(**{**TINY, "hidden_size": 128, "num_hidden_layers": 24})
    final = predict.weights(config, "nf4").total
    in_16_bits = predict.weights(config, "fp16").total
    with memory.measure(watch=True) as used:
        model = record_build.streamed(config, "nf4", "cpu")
    assert sum(memory.tensor_bytes(model).values()) == pytest.approx(final, rel=0.01)
    # on top of what stays: one 16-bit weight and the copies its quantization makes of it
    assert used.peak < final + 8 * 128 * 128 * 4
    assert final + 8 * 128 * 128 * 4 < in_16_bits
    del model


@pytest.mark.parametrize("name", ["fp32", "bf16", "int8", "fp4"])
def test_streamed_models_answer(tiny, name):
    """Someone who records a rung: the random model runs and gives finite logits."""
    model = record_build.streamed(predict.config(tiny), name, "cpu")
    with torch.inference_mode():
        logits = model(torch.tensor([[1, 5, 7]])).logits
    assert logits.shape == (1, 3, 200) and torch.isfinite(logits).all()


def test_bad_requests_end_in_a_sentence(tiny, tmp_path, capsys):
    """Someone who misspells a rung or a model: one message, exit status 2, no half-written run."""
    asked = ["--config", str(tiny), "--rungs", "int3", "--out", str(tmp_path)]
    assert record.main(asked) == 2
    assert "There is no rung 'int3'" in capsys.readouterr().err
    assert record.main(["--config", "llama-9", "--out", str(tmp_path)]) == 2
    assert "no config for 'llama-9'" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.slow
def test_a_model_too_large_is_skipped_not_fatal(tmp_path, monkeypatch, capsys):
    """Someone who records 70B in fp16 on a laptop: the run says it does not fit, and goes on."""
    monkeypatch.setattr("course_utils.machine.ram_bytes", lambda: (2**33, 2**32))
    found = run(tmp_path, "--config", "llama-2-70b", "--rungs", "fp16")
    assert "does not fit" in found["rungs"][0]["skipped"]
    assert "weights 128.48 GiB" in found["rungs"][0]["why"]


def test_a_gptq_rung_needs_a_checkpoint(tiny):
    """Someone who asks for random GPTQ weights: told that calibration makes them."""
    with pytest.raises(CourseError, match="cannot be made while loading"):
        record_build.streamed(predict.config(tiny), "gptq-4bit-32g", "cpu")


@pytest.mark.parametrize(
    ("words", "source", "kept"),
    [
        ("--model owner/name --out runs/today", "owner/name", "--model owner/name --out today"),
        ("--model=owner/name --out=runs", "owner/name", "--model=owner/name --out=runs"),
        ("--config llama-2-7b --rungs fp16 --out runs", "llama-2-7b", None),
        ("--model {tmp}/mine --out {tmp}/a", "{tmp}/mine", "--model mine --out a"),
        ("--out={tmp}/a --model={tmp}/mine", "{tmp}/mine", "--out=a --model=mine"),
        ("--model pocket --batch 2 --out {tmp}", "pocket", "--model pocket --batch 2 --out {last}"),
    ],
)
def test_the_recorded_command_can_be_run_again(tmp_path, words, source, kept):
    """A reader who repeats a recording: a hub id keeps its owner, only folders go."""
    (tmp_path / "mine").mkdir()
    fill = {"tmp": tmp_path, "last": tmp_path.name}
    given = words.format(**fill).split()
    out = next(
        word.removeprefix("--out=") if "=" in word else given[n + 1]
        for n, word in enumerate(given)
        if word.startswith("--out")
    )
    found = record.command(given, source.format(**fill), Path(out))
    assert found == f"python -m course_staff record {(kept or words).format(**fill)}"


@pytest.mark.slow
def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    """Someone whose recording is cut off after an hour: the same command does only what is left."""
    monkeypatch.setattr(quality, "REVIEWS", 4)
    monkeypatch.setattr(quality, "READ", 4)
    words = ("--model", str(POCKET), "--rungs", "fp16", "nf4")
    whole = run(tmp_path, *words)
    (path,) = tmp_path.glob("*.json")
    path.write_text(json.dumps(whole | {"rungs": whole["rungs"][:1]}))
    tried, measure = [], ladder.one_rung
    monkeypatch.setattr(
        ladder,
        "one_rung",
        lambda plan, name, *more: tried.append(name) or measure(plan, name, *more),
    )
    again = run(tmp_path, *words)
    assert tried == ["nf4"] and again["rungs"][0] == whole["rungs"][0]
    first, second = (found["rungs"][1]["quality"] for found in (whole, again))
    assert first == second and first["same_as_fp16"] is not None
    run(tmp_path, *words)
    assert tried == ["nf4", "fp16", "nf4"], "a whole run is measured anew"


@pytest.mark.parametrize(
    "path", sorted((data.FOLDER / "recorded").glob("*.json")), ids=lambda path: path.stem
)
def test_what_a_real_model_said_is_the_scripts_own(path):
    """A learner who trusts a recorded text: by which command, where, when, with which versions."""
    told = json.loads(path.read_text(encoding="utf-8"))
    lesson = path.stem.startswith("lesson_")  # what its notebook shows: test_lesson_06
    by = "course_staff notebooks run" if lesson else "course_staff.recording.speaking"
    assert told["command"].startswith(f"python -m {by}")
    assert told["date"] and told["device"]["name"] and told["versions"]["torch"]
    assert not re.search(r"/(home|root|tmp|work)/", json.dumps(told)), "a path of that machine"
    for model in [] if lesson else told.get("models", [told.get("model")]):
        assert model["fingerprint"] and model["dtype"] in ("float32", "float16", "bfloat16")


def test_a_gguf_file_is_a_rung(tmp_path):
    """A learner reads what a GGUF file takes: predicted from its formats to the byte."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    wheel_stand_in.tiny_gguf(folder / "tiny.gguf")

    class Exam:
        def sat_by(self, model, name):
            return {"perplexity": float(model.config.vocab_size), "rung": name}

    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, gguf_file="tiny.gguf")
    config.tie_word_embeddings = True
    row = gguf.measured(folder / "tiny.gguf", config, Exam())
    assert row["rung"] == row["quality"]["rung"] == "gguf-q4_1"
    assert row["predicted"]["weights_bytes"] == row["measured"]["weights_bytes"]
    assert row["measured"]["file_bytes"] > row["measured"]["weights_bytes"]
    with pytest.raises(CourseError, match="no GGUF file"):
        gguf.measured(folder / "other.gguf", config, Exam())
