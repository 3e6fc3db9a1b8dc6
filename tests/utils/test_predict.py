"""Bytes from a config alone: against published sizes, against real tensors, against the cards."""

import copy
import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

from course_utils import data, machine
from course_utils.errors import CourseError
from course_utils.memory import fit, ladders, predict, shapes
from course_utils.memory import measured as memory
from course_utils.memory.rungs import LADDER, rung
from course_utils.units import GIB, size

# GiB of the weights; LLM.int8()'s column without its row scales, 0.08 % on top
SIZES = {
    "llama-2-7b": (6_738_415_616, 12.55, 6.52, 3.88, 3.60),
    "llama-2-13b": (13_015_864_320, 24.24, 12.43, 7.26, 6.71),
    "llama-2-70b": (68_976_648_192, 128.48, 64.73, 36.84, 33.87),
}


@pytest.mark.parametrize("name", SIZES)
def test_llama_2_takes_what_the_table_says(name):
    """A learner who decides which card to rent: the figures for Llama 2 are right."""
    parameters, fp16, int8, nf4, double = SIZES[name]
    config = predict.config(name)
    of = {r: predict.weights(config, r) for r in ("fp16", "bf16", "int8", "fp4", "nf4", "nf4-dq")}
    assert of["fp16"].parameters == parameters
    assert of["bf16"].total == of["fp16"].total and of["fp4"].total == of["nf4"].total
    gib = {r: round(w.total / GIB, 2) for r, w in of.items()}
    assert (gib["fp16"], gib["nf4"], gib["nf4-dq"]) == (fp16, nf4, double)
    assert round((of["int8"].total - of["int8"].parts["scales"]) / GIB, 2) == int8
    assert of["int8"].parts["scales"] / of["int8"].total < 0.001


def test_gptq_matches_a_published_checkpoint():
    """A learner who downloads TheBloke's 4-bit, group-128 Llama 2 7B: 3.9 GB, as the card says."""
    assert predict.weights(predict.config("llama-2-7b"), "gptq-4bit").total == pytest.approx(
        3.9e9, rel=0.005
    )


def test_the_kv_cache_of_7b():
    """A learner who wonders what a long chat costs: half a MiB a token, 2 GiB at 4,096."""
    config = predict.config("llama-2-7b")
    assert predict.kv_cache(config, "fp16", 1, 1) == 2**19
    assert predict.kv_cache(config, "nf4", 1, 4096) == 2 * GIB
    # 70B shares keys and values among 8 heads: five eighths of 7B's, at ten times the size
    big = predict.config("llama-2-70b")
    assert predict.kv_cache(big, "fp16", 1, 4096) == 1.25 * GIB


MODELS = {
    "pocket": dict(hidden_size=256, intermediate_size=704, num_attention_heads=8),
    "grouped": dict(
        hidden_size=256, intermediate_size=896, num_attention_heads=8, num_key_value_heads=2
    ),
    "narrow": dict(hidden_size=256, intermediate_size=256, num_attention_heads=8),
    "wordy": dict(hidden_size=64, intermediate_size=128, num_attention_heads=4, vocab_size=30000),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("batch", "tokens"), [pytest.param(1, 64, marks=pytest.mark.slow), (2, 100)]
)
def test_the_predicted_peak_is_the_real_one(name, batch, tokens):
    """A learner who reads the stacked bar: cache and activations are what a prefill takes."""
    config = LlamaConfig(**{"vocab_size": 3000, "num_hidden_layers": 3, **MODELS[name]})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float16).eval()
    ids = torch.randint(3, config.vocab_size, (batch, tokens))
    with memory.measure(watch=True) as used, torch.inference_mode():
        output = model(ids, use_cache=True, logits_to_keep=1)
        scores = output.logits[:, -1].to(torch.float32)
    cache = predict.kv_cache(config, "fp16", batch, tokens)
    expected = cache + predict.activations(config, "fp16", batch, tokens)
    assert used.peak == pytest.approx(expected, rel=0.02)
    logits = batch * config.vocab_size * (2 + 4)  # of the last position, with their fp32 copy
    assert used.kept == pytest.approx(cache + logits, rel=0.02)
    del model, output, scores


SMOLLM2 = dict(
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49152,
    tie_word_embeddings=True,
)


def recorded_peaks():
    """(rung, setting, bytes) of SmolLM2's reference run on a CPU."""
    path = next(ladders.FOLDER.glob("smollm2--*.json"))
    run = json.loads(path.read_text(encoding="utf-8"))
    measured = [r for r in run["rungs"] if "peak_bytes" in r["measured"]]
    return [(r["rung"], run["setting"], r["measured"]["peak_bytes"]) for r in measured]


@pytest.mark.parametrize(("name", "setting", "peak"), recorded_peaks())
def test_a_real_models_recorded_peak_is_predicted(name, setting, peak):
    """A learner who asks whether a model fits in RAM: every rung within 5 %, GPTQ's copies too."""
    config, batch, length = LlamaConfig(**SMOLLM2), setting["batch"], setting["length"]
    parts = dict(
        predict.inference(config, name, batch, length + setting["new_tokens"], gpu=False).parts
    )
    parts["activations"] = predict.activations(config, name, batch, length)  # of the prefill
    assert sum(parts.values()) == pytest.approx(peak, rel=0.05)


def test_shapes_need_no_memory():
    """A learner on a laptop: asking about 70B allocates nothing."""
    shapes.known.cache_clear()
    with memory.measure() as used:
        predict.weights(predict.config("llama-2-70b"), "nf4")
    assert used.kept == 0


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
def test_a_prediction_leaves_the_config_as_it_was(model_type):
    """A learner who goes on with the same config, to load the model in a dtype of their own."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 200}
    counts = dict.fromkeys(("num_attention_heads", "num_key_value_heads", "num_hidden_layers"), 2)
    config = AutoConfig.for_model(model_type, **sizes, **counts)
    before = repr(vars(config))
    predict.inference(config, "fp16", length=32)
    assert repr(vars(config)) == before


def test_a_config_from_a_folder_or_file(tmp_path):
    """A learner with another Llama-like model: its config.json is enough."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "llama", "hidden_size": 64, "vocab_size": 50}))
    for given in (tmp_path, path, str(path)):
        assert predict.config(given).hidden_size == 64
    with pytest.raises(CourseError, match="no config"):
        predict.config("llama-3-900b")
    path.write_text("{ not json")
    with pytest.raises(CourseError, match="cannot be read"):
        predict.config(tmp_path)


@pytest.mark.parametrize("name", ["int4", "NF4", "", "gptq-3bit", "gptq-4bit-0g"])
def test_an_unknown_rung_is_refused_with_the_ladder(name):
    """A learner who misspells a rung: the message lists the ones there are."""
    with pytest.raises(CourseError, match="no rung") as caught:
        predict.weights(predict.config("llama-2-7b"), name)
    assert all(known in str(caught.value) for known in LADDER)


def test_a_group_size_that_does_not_divide_is_refused():
    """A learner who sets group 128 on a small model: told which layer, and which sizes do."""
    config = LlamaConfig(hidden_size=256, intermediate_size=704, num_hidden_layers=1)
    with pytest.raises(CourseError, match="down_proj has 704 inputs") as caught:
        predict.weights(config, "gptq-4bit-128g")
    assert "64, 32, 16" in caught.value.next_step
    assert predict.weights(config, "gptq-4bit-64g").total > 0


def test_every_card_has_its_figures_and_a_source():
    """A learner who doubts a figure: it has a source, and usable is less than total."""
    table = data.table("gpus")
    assert table["read"] and table["capability_source"].startswith("https://")
    assert {"T4", "RTX 3060", "RTX 3090", "RTX 4090", "L4", "A10G", "H100", "H200"} <= {
        c.name for c in fit.cards()
    }
    for row, card in zip(
        sorted(table["cards"], key=lambda r: r["usable_gib"]), fit.cards(), strict=True
    ):
        assert row["source"] and row["usable_source"]
        assert 0.9 * card.total_gib < card.usable_gib < card.total_gib
        assert card.bf16_native == (card.capability >= (8, 0))
    with pytest.raises(CourseError, match="no card"):
        fit.card("RTX 9090")


def test_seventy_billion_on_consumer_cards():
    """A learner with gaming cards: one of 24 GB never, two in 4 bits, and how much context."""
    config, gaming = predict.config("llama-2-70b"), fit.card("RTX 4090")
    for name in LADDER:
        assert not fit.fits(config, name, gaming, length=1).ok
    two = fit.fits(config, "nf4", gaming, length=4096, count=2)
    assert two.ok and len(two.needed) == 2
    assert not fit.fits(config, "int8", gaming, length=1, count=2).ok
    left = fit.context_left(config, "nf4", gaming, count=2)
    assert fit.fits(config, "nf4", gaming, length=left, count=2).ok
    assert not fit.fits(config, "nf4", gaming, length=left + 1, count=2).ok
    assert fit.context_left(config, "fp16", gaming, count=2) == 0


def test_a_split_adds_up_to_the_whole_model():
    """A learner who splits over cards: nothing is lost or counted twice."""
    config = predict.config("llama-2-13b")
    needed = fit.split(config, "fp16", 20 * GIB, 2, batch=1, length=1000)
    whole = predict.inference(config, "fp16", 1, 1000).parts
    shared = whole["activations"] + whole["overhead"]
    assert sum(needed) == whole["weights"] + whole["kv cache"] + 2 * shared


def test_the_split_is_the_one_from_pretrained_makes():
    """A learner with two cards: the layers land where transformers would put them."""
    from transformers.integrations.accelerate import _get_device_map
    from transformers.quantizers.auto import AutoHfQuantizer

    config = predict.config("llama-2-70b")
    room = 23 * GIB
    quantizer = AutoHfQuantizer.from_config(
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"), pre_quantized=False
    )
    model = shapes.on_meta(config)
    quantizer.preprocess_model(model, device_map="auto")
    theirs = _get_device_map(model, "auto", {0: room, 1: room}, quantizer)
    assert fit._places(shapes.Key(config), rung("nf4"), room, 2) == theirs


def test_a_model_too_large_is_refused_with_the_rung_that_fits():
    """A learner with 8 GiB: told before loading, with the numbers and the way out."""
    config = predict.config("llama-2-7b")
    with pytest.raises(CourseError) as caught:
        fit.check(config, "fp16", length=512, limit=8 * GIB)
    assert "12.55 GiB" in caught.value.why and "8.00 GiB" in caught.value.what
    assert "Take the rung int8" in caught.value.next_step
    with pytest.raises(CourseError, match="shorter context: 256 tokens"):
        fit.check(config, "nf4", length=8192, limit=4 * GIB)
    with pytest.raises(CourseError, match="No rung fits"):
        fit.check(config, "nf4", limit=GIB)
    assert fit.check(config, "nf4-dq", length=512, limit=8 * GIB).total < 8 * GIB


@pytest.mark.parametrize(
    ("name", "capability", "instead"),
    [("bf16", (7, 5), "fp16"), ("int8", (7, 0), "nf4"), ("nf4", (5, 2), "fp16")],
)
def test_a_card_too_old_is_refused(monkeypatch, name, capability, instead):
    """A learner on a T4 or V100: told what the rung needs, and what to take instead."""
    old = machine.Gpu("old card", "cuda", 16 * GIB, 15 * GIB, capability)
    monkeypatch.setattr(machine, "gpus", lambda: [old])
    with pytest.raises(CourseError, match="too old") as caught:
        fit.check(predict.config("llama-2-7b"), name, length=512)
    assert instead in caught.value.next_step
    assert fit.check(predict.config("llama-2-7b"), instead, length=512)


@pytest.mark.parametrize(
    ("saved", "refused", "accepted"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 64}, "nf4", "gptq-4bit-64g"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "gptq-4bit-64g", "gptq-4bit-32g"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
            "int8",
            "nf4",
        ),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, "gptq-4bit-64g", None),
    ],
)
def test_a_checkpoint_quantized_in_another_way_is_refused(saved, refused, accepted):
    """A learner who loads a GPTQ checkpoint as NF4: refused with the reason."""
    config = copy.deepcopy(predict.config("pocket"))
    config.quantization_config = saved
    with pytest.raises(CourseError, match="already quantized"):
        fit.check(config, refused, length=64)
    if accepted:
        assert fit.check(config, accepted, length=64)


def test_the_speed_limit_of_a_card():
    """A learner who asks how fast: 7B in fp16 on a T4 cannot pass about 24 tokens/s."""
    config = predict.config("llama-2-7b")
    t4 = fit.card("T4").bandwidth_gb_s
    assert predict.decode_limit(config, "fp16", t4) == pytest.approx(24.2, abs=0.1)
    assert predict.decode_limit(config, "nf4", t4) > 3 * predict.decode_limit(config, "fp16", t4)


def test_sizes_in_words():
    """A learner who reads 12.55 GiB: binary units, two digits."""
    assert [size(n) for n in (0, 1023, 1024, 13_476_831_232)] == [
        "0 bytes",
        "1023 bytes",
        "1.00 KiB",
        "12.55 GiB",
    ]
