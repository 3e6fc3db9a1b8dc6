"""Predictions for many families against what transformers, bitsandbytes and peft really do."""

import inspect
import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from course_staff.recording.build import load_arguments
from course_utils.errors import CourseError
from course_utils.memory import fit, predict, rungs, training
from course_utils.memory import measured as memory
from tests.utils.families import FAMILIES, config

LLAMA = dict(
    model_type="llama", hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=8, num_key_value_heads=4, vocab_size=512, max_position_embeddings=512,
)  # fmt: skip


def written(folder, **values):
    """A config as `predict.config` reads it from a folder."""
    (folder / "config.json").write_text(json.dumps(values))
    return predict.config(folder)


QUICK = ("llama", "gpt2", "gemma3_text")  # plain; transposed layers; windows


@pytest.fixture(
    params=[
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in FAMILIES
    ]
)
def family(request):
    """One family's name after the other."""
    return request.param


def test_weights_are_what_a_load_takes(family, tmp_path):
    """A learner with any model, GPT-2 with its odd layers too: 16, 8 and 4 bits, to 1 %."""
    made = config(family)
    AutoModelForCausalLM.from_config(made, dtype=torch.float32).save_pretrained(tmp_path)
    for rung in ("fp16", "int8", "nf4-dq"):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path, **load_arguments(rung))
        measured = sum(memory.tensor_bytes(loaded).values())
        assert predict.weights(made, rung).total == pytest.approx(measured, rel=0.01), rung


def kept(output):
    """Bytes of all tensors in the cache that a model hands back."""
    rest = [v for k, v in output.items() if k not in ("logits", "aux_loss", "router_logits")]
    todo, seen, total = rest, set(), 0
    while todo:
        thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            total += thing.numel() * thing.element_size() if thing.dim() else 0
        elif isinstance(thing, (list, tuple)):
            todo += thing
        elif isinstance(thing, dict):
            todo += thing.values()
        elif hasattr(thing, "__dict__"):
            todo += vars(thing).values()
    return total


def test_cache_and_peak_are_what_a_prefill_takes(family):
    """A learner with any model: windows, shared, compressed keys and states, to 1 %."""
    made, (batch, tokens) = config(family), (2, 100)
    model = AutoModelForCausalLM.from_config(made, dtype=torch.float16).eval()
    ids = torch.randint(3, 900, (batch, tokens))
    last = "logits_to_keep" in inspect.signature(model.forward).parameters
    with memory.measure(watch=True) as used, torch.inference_mode():
        output = model(ids, use_cache=True, **({"logits_to_keep": 1} if last else {}))
        scores = output.logits[:, -1].float()
    cache = predict.kv_cache(made, "fp16", batch, tokens)
    assert cache == pytest.approx(kept(output), rel=0.01)
    peak = cache + predict.activations(made, "fp16", batch, tokens)
    assert peak == pytest.approx(used.peak, rel=0.01)
    del output, scores


def test_lora_trains_what_peft_trains(family):
    """A learner who counts adapters of another family: peft's own number, or the reason why not."""
    from peft import LoraConfig, get_peft_model

    made = config(family)
    try:
        predicted = training.lora_parameters(made, 4)
    except CourseError as refused:
        assert "experts" in str(refused) and family.split("_")[0] in (
            *("mixtral", "qwen2", "qwen3", "olmoe", "gpt", "deepseek", "mamba", "lfm2"),
        )
        return
    model = AutoModelForCausalLM.from_config(made)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    assert predicted == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 400])
def test_a_window_caps_the_cache(length):
    """A learner with a long chat on Mistral: beyond the window nothing more is kept."""
    made = config("mistral")
    assert predict.kv_cache(made, "fp16", 3, length) == 3 * min(length, 63) * 2 * 2 * 64 * 2


def test_cards_share_a_model_of_another_family():
    """A learner with two cards and a Qwen: every layer's cache is on its layer's card."""
    made = config("gemma3_text")
    two = fit.split(made, "fp16", 3 * 2**30, 2, 1, 200)
    one = predict.inference(made, "fp16", 1, 200)
    shared = one.parts["activations"] + one.parts["overhead"]
    assert sum(two) == one.total + (len(two) - 1) * shared


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "t5", "d_model": 64, "num_layers": 2, "vocab_size": 512},
        {"model_type": "bart", "d_model": 64, "vocab_size": 512},
        {"model_type": "bert", "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 512},
        {"model_type": "whisper", "d_model": 64, "vocab_size": 512},
        {"model_type": "clip"},
        {"model_type": "recurrent_gemma", **FAMILIES["llama"], "lru_width": 256},
        {"model_type": "dbrx", "vocab_size": 512, "d_model": 64, "n_heads": 4, "n_layers": 1},
        {"model_type": "xglm", "vocab_size": 512, "d_model": 64, "num_layers": 2,
         "attention_heads": 4, "ffn_dim": 64},
    ],
    ids=lambda values: values["model_type"],
)  # fmt: skip
def test_what_cannot_be_predicted_is_refused(values, tmp_path):
    """A learner with a model that no formula fits is told so, and never given a wrong number."""
    with pytest.raises(CourseError) as caught:
        predict.inference(written(tmp_path, **values), "nf4")
    assert caught.value.why and caught.value.next_step


@pytest.mark.parametrize(
    "extra",
    [
        {"rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [1.0]}},
        {"rope_scaling": {"type": "ntk", "factor": 2.0}},
        {"rms_norm_eps": 1},
        {"initializer_range": "0.02"},
        {"num_hidden_layers": 2.0},
        {"num_hidden_layers": 0},
        {"num_attention_heads": 7},
        {"num_key_value_heads": 3},
        {"num_key_value_heads": 0},
        {"hidden_act": "reglu"},
        {"torch_dtype": "float8"},
        {"vocab_size": -1},
        {"hidden_size": "64"},
        {"model_type": "llama-next"},
    ],
    ids=str,
)
def test_a_config_of_another_time_gets_a_message(extra, tmp_path):
    """A learner with an old or a hand-edited config.json reads what is odd, not a traceback."""
    with pytest.raises(CourseError):
        predict.weights(written(tmp_path, **{**LLAMA, **extra}), "nf4")


@pytest.mark.parametrize("family", ["mixtral", "gpt2", "gemma2", "mamba"])
def test_gptq_of_a_family_not_tried_is_refused(family):
    """A learner with Mixtral is not told that GPTQ saves nothing: it packs the experts too."""
    with pytest.raises(CourseError, match="not known here"):
        predict.weights(config(family), "gptq-4bit-64g")


def test_a_model_no_group_size_fits_gets_a_whole_sentence(tmp_path):
    """A learner with stories260K, 172 inputs in its MLP: no sentence that ends in a colon."""
    made = written(tmp_path, **{**LLAMA, "intermediate_size": 172})
    with pytest.raises(CourseError, match="No usual group size"):
        predict.weights(made, "gptq-4bit")


@pytest.mark.parametrize(
    ("saved", "right", "wrong"),
    [
        ({"load_in_8bit": True, "llm_int8_threshold": 6.0}, "int8", "nf4"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4", "nf4-dq"),
        ({"load_in_4bit": True}, "fp4", "int8"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq-4bit", "fp16"),
    ],
)
def test_a_quantized_checkpoint_is_named_by_what_it_is(saved, right, wrong, tmp_path):
    """A learner with an early bitsandbytes checkpoint, which names no method, never reads None."""
    made = written(tmp_path, **LLAMA, quantization_config=saved)
    fit.check_checkpoint(made, rungs.rung(right))
    with pytest.raises(CourseError, match="already quantized") as caught:
        fit.check_checkpoint(made, rungs.rung(wrong))
    assert "None" not in str(caught.value)


def test_a_checkpoint_of_an_unknown_method_is_refused(tmp_path):
    """A learner with an AWQ or FP8 checkpoint is told that it cannot be loaded as another rung."""
    made = written(tmp_path, **LLAMA, quantization_config={"quant_method": "awq", "bits": 4})
    with pytest.raises(CourseError, match="awq, 4 bit"):
        fit.check_checkpoint(made, rungs.rung("nf4"))


def test_names_in_place_of_configs_and_cards_get_a_message():
    """A learner who writes fit.fits("llama-2-13b", "nf4", "T4") reads what to pass instead."""
    card, config_7b = fit.card("T4"), predict.config("llama-2-7b")
    with pytest.raises(CourseError, match=r"predict\.config"):
        fit.fits("llama-2-13b", "nf4", card)
    with pytest.raises(CourseError, match=r'fit\.card\("T4"\)'):
        fit.fits(config_7b, "nf4", "T4")
    for wrong in (0, -1, 1.5, "2", None, True):
        with pytest.raises(CourseError, match="whole number"):
            fit.fits(config_7b, "nf4", card, batch=wrong)
        with pytest.raises(CourseError, match="whole number"):
            training.lora_parameters(config_7b, wrong)


def test_a_fit_is_true_where_it_fits():
    """A learner who forgets `.ok` in an `if` does not get True for everything."""
    seven, card = predict.config("llama-2-7b"), fit.card("T4")
    assert fit.fits(seven, "nf4", card)
    assert not fit.fits(seven, "fp32", card)


def test_the_longest_context_is_not_capped():
    """A learner with a small model on a large card: over a million tokens are over a million."""
    left = fit.context_left(predict.config("pocket"), "fp16", fit.card("H200"))
    assert left > 2**20
    assert not fit.fits(predict.config("pocket"), "fp16", fit.card("H200"), length=left + 1)


def test_lora_on_layers_with_biases_and_on_named_ones():
    """A learner who adapts a Qwen, whose projections have biases, by name."""
    made = config("qwen2")
    assert training.lora_parameters(made, 4, ("q_proj", "embed_tokens")) == 4 * (
        2 * (256 + 256) + 1024 + 256
    )
    for wrong in ("q_prj", "input_layernorm", "bias"):
        with pytest.raises(CourseError, match="cannot adapt"):
            training.lora_parameters(made, 4, (wrong,))


def test_a_tied_head_is_read_with_every_token():
    """A learner with SmolLM2: its embeddings are the head, so a token reads them too."""
    tied = config("llama, tied")
    whole = predict.weights(tied, "fp16").total
    assert predict.decode_limit(tied, "fp16", 1.0) == pytest.approx(1e9 / whole)
    with pytest.raises(CourseError, match="mixture of experts"):
        predict.decode_limit(config("mixtral"), "fp16", 1.0)


def test_masks_are_neither_experts_nor_convolutions():
    """A learner with GPT-Neo, whose layers hold a mask: LoRA is counted as for any other."""
    from peft import LoraConfig, get_peft_model

    made = AutoConfig.for_model(
        "gpt_neo",
        **{"vocab_size": 512, "hidden_size": 64, "num_layers": 2, "num_heads": 4},
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=128,
    )
    model = AutoModelForCausalLM.from_config(made)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert training.lora_parameters(made, 4) == trained
    assert training.training(made, "lora", 4).trained == trained


@pytest.mark.parametrize("family", ["mamba", "rwkv"])
def test_a_state_is_not_split_by_guessing(family):
    """A learner with a state-space model and two cards reads what to do, not a traceback."""
    sizes = {"vocab_size": 1024, "hidden_size": 128, "num_hidden_layers": 2}
    with pytest.raises(CourseError, match="split over several cards"):
        fit.split(AutoConfig.for_model(family, **sizes), "fp16", 3 * 2**30, 2, 1, 100)


@pytest.mark.parametrize("family", ["git", "gpt_neox_japanese", "trocr"])
def test_a_peak_that_paper_gets_wrong_is_refused(family):
    """A learner with one of the few families whose run on paper is 6 to 14 % off the true one."""
    with pytest.raises(CourseError, match="cannot be predicted"):
        predict.activations(AutoConfig.for_model(family), "fp16", 1, 100)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_wish_for_flash_attention_changes_no_size(family, tmp_path):
    """A learner whose config.json asks for FlashAttention, on a laptop that has none."""
    values = {**LLAMA, "model_type": family}
    plain = predict.inference(written(tmp_path, **values), "nf4", 1, 100).parts
    wish = written(tmp_path, **values, attn_implementation="flash_attention_2")
    assert predict.inference(wish, "nf4", 1, 100).parts == plain
    assert wish._attn_implementation == "flash_attention_2", "the learner's own stays as it is"


@pytest.mark.parametrize(
    "more",
    [{"head_dim": -8}, {"head_dim": 0}, {"num_key_value_heads": 3}, {"is_encoder_decoder": True}],
    ids=str,
)
def test_a_cache_of_a_model_that_cannot_be_is_refused(more):
    """A learner who makes a config by hand: no negative bytes of cache, no cache of an encoder."""
    with pytest.raises(CourseError):
        predict.kv_cache(AutoConfig.for_model(**{**LLAMA, **more}), "fp16")


def test_a_size_that_each_layer_has_for_itself_is_no_fault():
    """A learner with Gemma 4, whose heads are wider in some layers: it is counted all the same."""
    made = AutoConfig.for_model(
        "gemma4_text",
        **{k: v for k, v in LLAMA.items() if k != "model_type"},
        **{"head_dim": 16, "global_head_dim": 32, "num_kv_shared_layers": 0},
        **{
            "hidden_size_per_layer_input": 0,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    )
    model = AutoModelForCausalLM.from_config(made, dtype=torch.float16)
    measured = sum(memory.tensor_bytes(model).values())
    assert predict.weights(made, "fp16").total == pytest.approx(measured, rel=0.01)


def test_training_a_model_with_eyes_has_its_sizes_inside():
    """A learner with Emu3, whose sizes stand in text_config: a prediction, no AttributeError."""
    inside = {k: v for k, v in LLAMA.items() if k != "model_type"}
    made = AutoConfig.for_model("emu3", text_config={**inside, "pad_token_id": 0})
    assert training.training(made, "qlora", 4).parts["activations"] > 0


def test_what_paper_cannot_know_is_said_in_words():
    """A learner with JetMoe, which asks its own numbers where to go: no name of an operation."""
    sizes = {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "kv_channels": 16}
    made = AutoConfig.for_model("jetmoe", **sizes, num_key_value_heads=2, intermediate_size=64)
    with pytest.raises(CourseError, match="depends on its numbers"):
        predict.kv_cache(made, "fp16")
