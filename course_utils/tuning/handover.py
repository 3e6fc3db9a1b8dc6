"""A Llama-like checkpoint as one GGUF file, which llama.cpp, Ollama and LM Studio run.

`gguf` writes the file and rounds the numbers; what is here is what that package leaves to whoever
writes: which tensor is called what, the order of the rows of Q and K, and which token is a mark.
llama.cpp's own script, `convert_hf_to_gguf.py`, knows many families; this knows one, Llama with
byte-level BPE (SmolLM2), and refuses the rest. It runs no model.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from course_utils import machine, models
from course_utils.errors import CourseError
from course_utils.tuning.saving import writing

KINDS = ("F16", "Q8_0", "Q4_1", "Q4_0")
# how a tokenizer of the `tokenizers` library cuts text into words, and llama.cpp's name for it
CUTS = {("ByteLevel",): "gpt-2", ("Digits", "ByteLevel"): "smollm"}
OPTIONS = {"add_prefix_space": False, "use_regex": True, "individual_digits": True}
OTHER_WAY = "Write it with convert_hf_to_gguf.py from llama.cpp's repository, which knows more."


def to_gguf(folder: str | Path, path: str | Path, kind: str = "F16") -> Path:
    """Write the checkpoint in `folder` as a GGUF file with its tokenizer and chat template.

    Args:
        folder: an unquantized Llama-like checkpoint, as `save_pretrained` leaves it, with its
            tokenizer. A LoRA adapter has to be merged into it first.
        path: the file to make; whole or not at all, and one of that name is replaced.
        kind: how the matrices are stored, one of `KINDS`. Norms stay in fp32, and beside 4-bit
            blocks embeddings and head take Q8_0, as in llama.cpp's own files.

    Returns:
        `path`.

    Raises:
        CourseError: no such kind, no whole checkpoint, one that this cannot write, a full disk.
    """
    import gguf

    folder, path = Path(folder), Path(path)
    models.check_folder(folder)
    if path.is_dir():
        raise CourseError(f"{path.name} is a folder.", "", f"Name a file: {path.name}/model.gguf")
    if kind not in KINDS:
        raise CourseError(f"There is no kind {kind!r}.", "", f"Take one of {', '.join(KINDS)}.")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vocabulary = folder / "tokenizer.json"
    tokenizer = json.loads(vocabulary.read_text(encoding="utf-8")) if vocabulary.is_file() else {}
    pre = _check(folder, config, tokenizer)
    need = models.weights_bytes(str(folder)) or 0
    with writing(path.parent, need), machine.whole(path) as new:
        writer = gguf.GGUFWriter(new, "llama")
        _settings(writer, config, folder.resolve().name, kind)
        _tokens(writer, folder, tokenizer, config["vocab_size"], pre)
        for name, data, stored in _tensors(folder, config, kind):
            writer.add_tensor(name, data, raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path


def _check(folder: Path, config: dict[str, Any], tokenizer: dict[str, Any]) -> str:
    """llama.cpp's name for how the tokenizer cuts text into words; refuses what is not known."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    stretched = rope.get("rope_type") or rope.get("type") or "default"
    first = tokenizer.get("pre_tokenizer") or {}
    cuts = [{**OPTIONS, **part} for part in first.get("pretokenizers", [first])]
    names = tuple(str(cut.get("type")) for cut in cuts)
    known = tokenizer.get("model", {}).get("type") == "BPE" and names in CUTS
    known = known and all(cut[name] is kept for cut in cuts for name, kept in OPTIONS.items())
    last = max([*tokenizer.get("model", {}).get("vocab", {}).values(), 0])
    last = max([last, *(added["id"] for added in tokenizer.get("added_tokens", []))])
    refused = {
        f"It is of the family {config.get('model_type')!r}; this writes Llama's.": (
            config.get("model_type") != "llama" or config.get("hidden_act", "silu") != "silu"
        ),
        "It is quantized: its numbers have been rounded once, into another format.": (
            config.get("quantization_config") is not None
        ),
        f"It stretches its positions ({stretched}), which this does not write.": (
            stretched != "default"
        ),
        "Its tokenizer is no byte-level BPE of a kind that this knows.": (
            not known or tokenizer.get("normalizer") is not None
        ),
        f"Its tokenizer has ids up to {last}, and its embedding {config['vocab_size']} rows.": (
            last >= config["vocab_size"]
        ),
        "Its weights are not in safetensors files.": not any(folder.glob("*.safetensors")),
    }
    for why, holds in refused.items():
        if holds:
            raise CourseError("This checkpoint cannot be written as GGUF here.", why, OTHER_WAY)
    return CUTS[names]


def _settings(writer: Any, config: dict[str, Any], name: str, kind: str) -> None:
    """What llama.cpp has to know to build the model."""
    import gguf

    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    theta = {"rope_theta": 10000.0, **config, **(config.get("rope_parameters") or {})}["rope_theta"]
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(theta)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _tokens(writer: Any, folder: Path, tokenizer: dict[str, Any], size: int, pre: str) -> None:
    """The tokenizer: every token, which of them are marks, how they merge, the chat template."""
    import gguf

    kinds = gguf.TokenType
    words = {i: (word, kinds.NORMAL) for word, i in tokenizer["model"]["vocab"].items()}
    for added in tokenizer.get("added_tokens", []):
        mark = kinds.CONTROL if added["special"] else kinds.USER_DEFINED
        words[added["id"]] = (added["content"], mark)
    # an embedding may have more rows than there are tokens
    rows = [words.get(i, (f"[PAD{i}]", kinds.UNUSED)) for i in range(size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([word for word, _ in rows])
    writer.add_token_types([mark for _, mark in rows])
    special = gguf.SpecialVocab(folder, load_merges=True, n_vocab=size)
    special.add_special_token.setdefault("bos", False)  # or llama.cpp decides by the tokenizer
    special.add_to_gguf(writer, quiet=True)


def _tensors(folder: Path, config: dict[str, Any], kind: str) -> Iterator[tuple[str, Any, Any]]:
    """Every tensor: its name in GGUF, its numbers as they are stored, and what kind they are."""
    import gguf
    import torch
    from safetensors import safe_open

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    heads = config["num_attention_heads"]
    groups = {"q_proj": heads, "k_proj": config.get("num_key_value_heads") or heads}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for old in tensors.keys():  # noqa: SIM118 (it is no dictionary)
                # llama.cpp takes the embeddings where there is no head, and computes the angles
                tied = old == "lm_head.weight" and config.get("tie_word_embeddings")
                if tied or old.endswith("rotary_emb.inv_freq"):
                    continue
                name = names.get_name(old, try_suffixes=(".weight", ".bias"))
                if name is None:
                    why = f"It holds {old}, which is no part of a plain Llama."
                    raise CourseError("This checkpoint cannot be written as GGUF.", why, OTHER_WAY)
                data = tensors.get_tensor(old).to(torch.float32)
                if count := groups.get(old.split(".")[-2]):
                    # RoPE turns pairs of rows: the halves of a head here, neighbours in llama.cpp
                    pairs = data.reshape(count, 2, -1, *data.shape[1:])
                    data = pairs.transpose(1, 2).reshape(data.shape)
                stored = _stored_as(name, data.shape, kind)
                yield name, gguf.quants.quantize(data.numpy(), stored), stored


def _stored_as(name: str, shape: Any, kind: str) -> Any:
    """The number format of one tensor: blocks of 32 where a row divides into them."""
    import gguf

    formats = gguf.GGMLQuantizationType
    if len(shape) == 1:
        return formats.F32
    if kind == "F16" or shape[-1] % 32:
        return formats.F16
    outer = name.startswith(("token_embd", "output"))
    return formats.Q8_0 if outer else formats[kind]
