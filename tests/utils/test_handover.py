"""Written as GGUF and read back: the file that a learner carries to llama.cpp holds their model."""

import json

import pytest

from course_utils import tuning
from course_utils.errors import CourseError

PHRASES = [
    "I'd go again: 2 stars, not 12!\n",
    " Ça va?  naïve\t¾ 🙂",
    "<|im_start|>user\nHi<|im_end|>\n",
]


def checkpoint(folder, kv_heads=2, tied=True, digits=True, **changes):
    """A tiny random Llama with a byte-level tokenizer that has learned a few merges."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False)
    numbers = pre_tokenizers.Digits(individual_digits=True)
    raw.pre_tokenizer = pre_tokenizers.Sequence([numbers, cut]) if digits else cut
    raw.decoder = decoders.ByteLevel()
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=marks, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator([*PHRASES, "the food was good and the tea was warm"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token=marks[2], pad_token=marks[2], bos_token=marks[1]
    )
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": kv_heads}
    config = LlamaConfig(
        vocab_size=304, tie_word_embeddings=tied, eos_token_id=2, **sizes, **heads, **changes
    )
    model = LlamaForCausalLM(config).half()
    model.save_pretrained(folder)
    return model.float(), tokenizer


def read_back(path):
    """The model and the tokenizer that transformers makes of the file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    plain = {"quantization_config": GgufConfig(dequantize=True), "dtype": torch.float32}
    return AutoModelForCausalLM.from_pretrained(**where, **plain), AutoTokenizer.from_pretrained(
        **where
    )


@pytest.mark.parametrize(("kv_heads", "tied"), [(2, True), (1, False), (4, False)])
def test_a_model_read_back_is_the_same_model(tmp_path, kv_heads, tied):
    """A learner's tuned model must not change on its way into another program.

    With shared keys and values, and with a head of its own or without: wrong rows of Q and K load
    without a word and make the model talk nonsense.
    """
    import torch

    model, _ = checkpoint(tmp_path / "made", kv_heads, tied)
    found, _ = read_back(tuning.to_gguf(tmp_path / "made", tmp_path / "made.gguf"))
    assert found.state_dict().keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, found.state_dict()[name]), name
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        # the file keeps the norms' epsilon as fp32
        torch.testing.assert_close(model(ids).logits, found(ids).logits)


@pytest.mark.parametrize("digits", [True, False])
def test_text_becomes_the_same_tokens(tmp_path, digits):
    """A review with accents, digits and marks must reach the model as in training."""
    _, tokenizer = checkpoint(tmp_path / "made", digits=digits)
    _, found = read_back(tuning.to_gguf(tmp_path / "made", tmp_path / "made.gguf"))
    for text in PHRASES:
        assert found(text).input_ids == tokenizer(text).input_ids, text
    assert found.chat_template == tokenizer.chat_template
    assert found.eos_token == "<|im_end|>"


@pytest.mark.parametrize(("kind", "most"), [("Q8_0", 0.01), ("Q4_1", 0.12), ("Q4_0", 0.15)])
def test_fewer_bits_round_and_take_fewer_bytes(tmp_path, kind, most):
    """A learner who asks for 4 bits gets a smaller file whose numbers are near the old ones."""
    model, _ = checkpoint(tmp_path / "made")
    whole = tuning.to_gguf(tmp_path / "made", tmp_path / "whole.gguf")
    small = tuning.to_gguf(tmp_path / "made", tmp_path / "small.gguf", kind)
    assert small.stat().st_size < whole.stat().st_size
    found, _ = read_back(small)
    name = "model.layers.1.self_attn.k_proj.weight"
    before, after = model.state_dict()[name], found.state_dict()[name]
    assert 0 < (before - after).norm() / before.norm() < most


def spoilt(folder, file, **changes):
    """Change a JSON file of a checkpoint."""
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True, "trim_offsets": True}
REFUSED = {
    "another family": ("config.json", {"model_type": "qwen2"}, "family 'qwen2'"),
    "another activation": ("config.json", {"hidden_act": "gelu"}, "family"),
    "stretched positions": (
        "config.json", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "llama3"),
    "stretched, as configs said it once": (
        "config.json",
        {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
    "already quantized": ("config.json", {"quantization_config": {"bits": 4}}, "quantized"),
    "fewer rows than tokens": ("config.json", {"vocab_size": 290}, "290 rows"),
    "another tokenizer": ("tokenizer.json", {"pre_tokenizer": None}, "byte-level"),
    "a space in front": (
        "tokenizer.json", {"pre_tokenizer": {**BYTES, "add_prefix_space": True}}, "byte-level"),
    "digits in runs": (
        "tokenizer.json",
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": False}, BYTES]}}, "byte-level"),
    "text changed before": ("tokenizer.json", {"normalizer": {"type": "NFC"}}, "byte-level"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_written_is_refused_and_leaves_no_file(tmp_path, what):
    """A file that loads and talks nonsense costs an evening; a refusal costs a minute."""
    checkpoint(tmp_path / "made")
    file, changes, said = REFUSED[what]
    spoilt(tmp_path / "made", file, **changes)
    with pytest.raises(CourseError, match=said):
        tuning.to_gguf(tmp_path / "made", tmp_path / "made.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_config_of_older_releases_gives_the_same_file(tmp_path):
    """A checkpoint from before transformers 5: its angle and its head count stand elsewhere."""
    checkpoint(tmp_path / "made", kv_heads=4, rope_parameters={"rope_theta": 5e5})
    path = tuning.to_gguf(tmp_path / "made", tmp_path / "made.gguf")
    before = path.read_bytes()
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    for name in ("rope_parameters", "num_key_value_heads", "head_dim", "hidden_act"):
        config.pop(name)
    config |= {"rope_theta": 5e5, "rope_scaling": None, "torch_dtype": config.pop("dtype")}
    (tmp_path / "made" / "config.json").write_text(json.dumps(config))
    assert tuning.to_gguf(tmp_path / "made", path).read_bytes() == before


def test_an_adapter_in_the_way_is_named(tmp_path):
    """Whoever forgot to merge LoRA reads which tensor is too many, and the old file stays."""
    from safetensors.torch import load_file, save_file

    checkpoint(tmp_path / "made")
    path = tuning.to_gguf(tmp_path / "made", tmp_path / "made.gguf")
    before = path.read_bytes()
    weights = load_file(tmp_path / "made" / "model.safetensors")
    extra = "model.layers.0.self_attn.q_proj.lora_A.default.weight"
    weights[extra] = weights["model.norm.weight"].clone()
    save_file(weights, tmp_path / "made" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CourseError, match="lora_A"):
        tuning.to_gguf(tmp_path / "made", path)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.new"))


def test_old_weight_files_and_a_missing_tokenizer_are_refused(tmp_path):
    """A folder from some years ago would become a file without weights, or without words."""
    import torch

    model, _ = checkpoint(tmp_path / "made")
    (tmp_path / "made" / "tokenizer.json").rename(tmp_path / "made" / "tokenizer.model")
    with pytest.raises(CourseError, match="tokenizer"):
        tuning.to_gguf(tmp_path / "made", tmp_path / "made.gguf")
    (tmp_path / "made" / "tokenizer.model").rename(tmp_path / "made" / "tokenizer.json")
    (tmp_path / "made" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "made" / "pytorch_model.bin")
    with pytest.raises(CourseError, match="safetensors"):
        tuning.to_gguf(tmp_path / "made", tmp_path / "made.gguf")


def test_a_folder_in_the_files_place_is_named(tmp_path):
    """Whoever names the folder for the file reads so, and the folder stays."""
    checkpoint(tmp_path / "made")
    with pytest.raises(CourseError, match="is a folder"):
        tuning.to_gguf(tmp_path / "made", tmp_path)
    assert (tmp_path / "made").is_dir()


def test_an_unknown_kind_is_refused_with_those_there_are(tmp_path):
    """Q4_K_M is what people download; it is not among what can be written here."""
    checkpoint(tmp_path / "made")
    with pytest.raises(CourseError, match="Q4_0"):
        tuning.to_gguf(tmp_path / "made", tmp_path / "made.gguf", "Q4_K_M")


# -- in llama.cpp itself --------------------------------------------------------------------------


def asked(path, requests):
    """What llama.cpp's own server answers for this file: one answer for each (place, body)."""
    import httpx

    xllamacpp = pytest.importorskip(
        "xllamacpp", reason="llama.cpp is not installed here: pip install xllamacpp"
    )
    wanted = xllamacpp.CommonParams()
    wanted.model.path, wanted.n_ctx, wanted.n_parallel, wanted.verbosity = str(path), 1024, 1, -1
    server = xllamacpp.Server(wanted)  # it ends with the function
    with httpx.Client(base_url=server.listening_address, trust_env=False, timeout=60) as client:
        return [client.post(place, json=body).raise_for_status().json() for place, body in requests]


def tokens(text):
    """A request for a text's token ids."""
    return "/tokenize", {"content": text, "add_special": False, "parse_special": True}


def next_tokens(prompt, count):
    """A request for the most probable next tokens and their log-probabilities."""
    more = {"n_predict": 1, "temperature": 0, "n_probs": count, "cache_prompt": False}
    return "/completion", {"prompt": prompt, **more}


@pytest.mark.slow
@pytest.mark.parametrize(("kv_heads", "tied"), [(2, True), (1, False)])
def test_llama_cpp_computes_what_transformers_computes(tmp_path, kv_heads, tied):
    """A learner's file in another program: the next token's chances must be those of the lesson."""
    import torch

    model, _ = checkpoint(tmp_path / "made", kv_heads, tied)
    file = tuning.to_gguf(tmp_path / "made", tmp_path / "made.gguf")
    prompts = [list(range(n, n + 30)) for n in (3, 60, 200)]
    answers = asked(file, [next_tokens(prompt, 20) for prompt in prompts])
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.inference_mode():
            expected = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        found = answer["completion_probabilities"][0]["top_logprobs"]
        assert len(found) == 20
        for one in found:
            assert abs(one["logprob"] - expected[one["id"]].item()) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("digits", [True, False])
def test_llama_cpp_cuts_text_into_the_same_tokens(tmp_path, digits):
    """A review typed into llama.cpp must reach the model as it did in training."""
    _, tokenizer = checkpoint(tmp_path / "made", digits=digits)
    file = tuning.to_gguf(tmp_path / "made", tmp_path / "made.gguf")
    texts = [
        *PHRASES,
        "one  two\n\n three\r\n\t4",
        "naïve—“quoted” 3.50$ 你好 😀",
        "don't we'll I'M",
    ]
    for text, answer in zip(texts, asked(file, map(tokens, texts)), strict=True):
        assert answer["tokens"] == tokenizer(text).input_ids, text


@pytest.mark.slow
def test_smollm2_gives_the_same_labels_in_llama_cpp(tmp_path):
    """Who hands a model on as GGUF promises that it still labels as it did: 97 in 100 at least.

    By chat: llama.cpp cuts the text and fills in the template that stands in the file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from course_utils import data, models

    folder = models.is_here("smollm2")
    if folder is None:
        pytest.skip("SmolLM2 is not on this machine")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    labels = ("Positive", "Negative")
    two = [tokenizer.encode(label)[0] for label in labels]
    reviews = [text for text, label in data.reviews() if label != "Neutral"][:100]
    chats = [[{"role": "user", "content": f"{text}\n\nPositive or Negative?"}] for text in reviews]
    bound = {"temperature": 0, "max_tokens": 1, "logit_bias": {str(one): 100 for one in two}}
    file = tuning.to_gguf(folder, tmp_path / "small.gguf", "Q8_0")
    answers = asked(file, [("/v1/chat/completions", {"messages": c, **bound}) for c in chats])
    same = 0
    for chat, answer in zip(chats, answers, strict=True):
        inputs = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        with torch.inference_mode():
            here = model(**inputs, logits_to_keep=1).logits[0, -1, two]
        assert answer["usage"]["prompt_tokens"] == inputs["input_ids"].shape[1]
        same += answer["choices"][0]["message"]["content"] == labels[here.argmax()]
    assert same >= 97
