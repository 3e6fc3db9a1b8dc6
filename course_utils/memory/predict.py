"""Bytes before loading: what a model takes on a rung, from its config.json alone.

    config = predict.config("llama-2-7b")
    predict.weights(config, "nf4")                            # by part, scales included
    predict.inference(config, "nf4", batch=1, length=2048)    # with cache, activations, overhead

Weights are counted tensor by tensor, for any family. Cache and activations of a Llama model come
from formulas, which name their source; those of any other family from a run on paper (`dry_run`).
What none of them knows is refused, not guessed.
"""

import math
from dataclasses import dataclass
from typing import Any

from course_utils.errors import CourseError
from course_utils.memory import dry_run
from course_utils.memory.rungs import PARTS, Rung, rung
from course_utils.memory.shapes import NAMES as NAMES
from course_utils.memory.shapes import Key, Shape, shapes
from course_utils.memory.shapes import config as config
from course_utils.units import GIB, size

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}

# Families of which GPTQModel makes a checkpoint of the predicted bytes, to 1 %: a test makes a tiny
# one of each.
GPTQ_TRIED = ("llama", "mistral", "qwen2", "qwen3")

# A CUDA process holds memory that PyTorch's allocator does not count: the context and the kernels'
# code. Out-of-memory messages give it as "in use" minus "allocated" minus "reserved": 0.13 GiB on
# a T4 (github.com/QwenLM/Qwen3-VL/issues/1046), 0.4 on an A100 (HiDream-ai/VAREdit/issues/6), 0.5
# on an RTX 4090 (3DTopia/Phidias-Diffusion/issues/8). A cuBLAS workspace of 8 to 32 MiB is in it.
CUDA_OVERHEAD = GIB // 2


@dataclass(frozen=True)
class Bytes:
    """Predicted bytes by part: what `weights`, `inference` and `training` have in common."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        """All parts together, in bytes."""
        return sum(self.parts.values())

    def table(self, name: str, note: str) -> str:
        """A line for each part, and one for the total, with what it is of and a note."""
        lines = [f"{part:<12}{size(n):>12}" for part, n in self.parts.items()]
        return "\n".join([*lines, f"{name:<12}{size(self.total):>12}  {note}"])


@dataclass(frozen=True, repr=False)
class Weights(Bytes):
    """Predicted bytes of a model's weights on one rung, by part."""

    rung: str
    parameters: int

    @property
    def bits_per_weight(self) -> float:
        """Bits of memory for each parameter, everything included."""
        return 8 * self.total / self.parameters

    def __repr__(self) -> str:
        """A line for each part."""
        return self.table(self.rung, f"{self.bits_per_weight:.2f} bits a weight")


@dataclass(frozen=True, repr=False)
class Inference(Bytes):
    """Predicted peak bytes of running a model on one rung.

    Attributes:
        parts: `weights`, `kv cache`, `activations` (with the logits), `overhead`.
    """

    rung: str
    batch: int
    length: int

    def __repr__(self) -> str:
        """A line for each part."""
        return self.table(self.rung, f"{self.batch} x {self.length} tokens")


def weights(config: Any, rung_name: str) -> Weights:
    """Bytes of the weights on a rung, by part.

    Embeddings, norms and head are in the rung's dtype: 16 bits where the model is loaded with
    `dtype=torch.float16`, as it should be; a checkpoint in fp32 would keep them at 32.

    Raises:
        CourseError: no such rung, or a GPTQ group size that does not divide a layer's inputs.
    """
    r = rung(rung_name)
    parts = dict.fromkeys(PARTS, 0)
    tensors = shapes(config)
    if r.kind == "gptq":
        _check_gptq(config, tensors, r)
    for t in tensors:
        values, scales = bytes_of(t, r)
        parts[t.part] += values
        parts["scales"] += scales
    parameters = sum(t.numel for t in tensors if t.kind != "buffer")
    return Weights({p: n for p, n in parts.items() if n}, rung_name, parameters)


def bytes_of(t: Shape, r: Rung) -> tuple[int, int]:
    """(bytes of the values, bytes of scales, zeros and tables) of one tensor on a rung.

    Sources: LLM.int8() keeps one fp32 scale a row (arXiv 2208.07339; bitsandbytes
    `int8_vectorwise_quant`). bitsandbytes 4-bit: one fp32 scale for 64 weights and a table of 16
    fp32 levels; double quantization makes the scales 8 bits wide, with one fp32 scale for 256 of
    them, an fp32 mean and a table of 256 levels (QLoRA, arXiv 2305.14314 section 3; bitsandbytes
    `QuantState`). GPTQ: int32 words of packed values, one fp16 scale and one packed zero for each
    group and output, an int32 group index for each input (AutoGPTQ `QuantLinear`).
    """
    if t.kind == "buffer" or t.element_bytes != BYTES["float16"]:  # what the model fixes itself
        return t.numel * t.element_bytes, 0
    if t.kind != "linear" or r.kind == "float":
        return t.numel * (4 if r.dtype in t.fp32_in else BYTES[r.dtype]), 0
    rows, columns = t.shape
    if r.kind == "int8":
        return t.numel, 4 * rows
    if r.kind == "bnb4":
        values, blocks, table = math.ceil(t.numel / 2), math.ceil(t.numel / 64), 16 * 4
        if r.double_quant:
            return values, blocks + 4 * math.ceil(blocks / 256) + 4 + 256 * 4 + table
        return values, 4 * blocks + table
    groups = columns // r.group_size
    packed_zeros = groups * rows * r.bits // 8
    return t.numel * r.bits // 8, 2 * groups * rows + packed_zeros + 4 * columns


def _check_gptq(config: Any, tensors: tuple[Shape, ...], r: Rung) -> None:
    """Raise `CourseError` for a family not tried with GPTQ, or a group that does not divide."""
    linear = [t for t in tensors if t.kind == "linear"]
    if config.model_type not in GPTQ_TRIED:
        raise CourseError(
            f"How GPTQ packs a {config.model_type} model is not known here.",
            "Which layers it quantizes differs by family; tried are " + ", ".join(GPTQ_TRIED) + ".",
            "Take a bitsandbytes rung, or look at the size of a finished GPTQ checkpoint.",
        )
    wrong = [t for t in linear if t.shape[1] % r.group_size]
    if wrong:
        n, path = wrong[0].shape[1], wrong[0].path
        fitting = [g for g in (128, 64, 32, 16) if all(t.shape[1] % g == 0 for t in linear)]
        sizes = ", ".join(map(str, fitting))
        raise CourseError(
            f"Group size {r.group_size} does not divide this model's layers.",
            f"{path.removesuffix('.weight')} has {n} inputs: {n} / {r.group_size} is not whole.",
            f"Take a group size that divides them all: {sizes}."
            if fitting
            else "No usual group size (128, 64, 32, 16) does: take a bitsandbytes rung.",
        )


def whole(**given: Any) -> None:
    """Raise `CourseError` where a count is not a whole number from 1 up."""
    for name, n in given.items():
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise CourseError(
                f"{name}={n!r} is no number of that kind.",
                "Rows, tokens and cards are counted.",
                f"Write a whole number from 1 up, like {name}=1.",
            )


def has_formula(config: Any) -> bool:
    """Whether the formulas below hold: for Llama; anything else is run on paper."""
    shapes(config)  # refuses what no model can be built from
    return config.model_type == "llama"


def kv_cache(config: Any, rung_name: str, batch: int = 1, length: int = 2048) -> int:
    """Bytes of the KV cache: a key and a value for every layer, KV head and token.

    2 x layers x batch x length x KV heads x head size x bytes of the dtype (arXiv 2211.05102,
    section 2.2; the cache of transformers' `DynamicCache`). No rung here quantizes the cache.
    Families with windows, shared or compressed keys or a state in their place: as they do it.
    """
    return sum(cache_by_layer(config, rung_name, batch, length))


def cache_by_layer(config: Any, rung_name: str, batch: int = 1, length: int = 2048) -> list[int]:
    """`kv_cache` of each layer, in their order."""
    whole(batch=batch, length=length)
    r = rung(rung_name)
    if has_formula(config):
        keys = batch * length * config.num_key_value_heads * config.head_dim * BYTES[r.dtype]
        return [2 * keys] * config.num_hidden_layers
    return [layer.size(batch, length) for layer in dry_run.cache(Key(config), r.dtype)]


def activations(config: Any, rung_name: str, batch: int = 1, tokens: int = 2048) -> int:
    """Bytes of the intermediate results at the peak of a prefill of `tokens`, logits included.

    Counted on transformers' `modeling_llama.py` under `torch.inference_mode()`, per token: inside
    the MLP the embedded input, the layer's input, the residual, the normed input (4 x hidden) and
    gate, up and their product (3 x intermediate) are alive at once; inside attention 3 x hidden,
    queries before and after rotation, keys while they are rotated; at the head the logits, with
    the last hidden states and then with their fp32 copy. The largest counts. With quantized layers
    one more thing is alive: a 4-bit or GPTQ weight unpacked to 16 bits, or int8 inputs and int32
    products. An estimate there: it depends on the kernel that the library picks.

    Another family is run on paper, and its largest layer's unpacked weight or products are added.
    """
    whole(batch=batch, tokens=tokens)
    r = rung(rung_name)
    if not has_formula(config):
        return _on_paper(config, r, batch, tokens)
    n, width = batch * tokens, BYTES[r.dtype]
    hidden, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    rope = 2 * tokens * config.head_dim * width
    attention = n * (3 * hidden + 2 * queries + 3 * keys) * width
    mlp = n * (4 * hidden + 3 * inner) * width
    if r.kind in ("bnb4", "gptq"):
        mlp = max(mlp, n * (4 * hidden + 2 * inner) * width + hidden * inner * width)
    elif r.kind == "int8":
        mlp = n * (4 * hidden * width + hidden + inner * (2 * width + 4))
    last = batch * config.vocab_size
    head = last * width + max(n * hidden * width, last * 4)
    return max(attention + rope, mlp + rope, head)


def _on_paper(config: Any, r: Rung, batch: int, tokens: int) -> int:
    """`activations` of a family without a formula: the run's peak less what stays in the cache."""
    peak = dry_run.peak(config, r.dtype, batch, tokens)
    linear = [t.shape for t in shapes(config) if t.kind == "linear"]
    if r.kind == "int8":
        peak += batch * tokens * max(4 * rows + columns for rows, columns in linear)
    elif r.kind != "float":
        peak += max(rows * columns for rows, columns in linear) * BYTES[r.dtype]
    return max(0, peak - kv_cache(config, r.name, batch, tokens))


def inference(
    config: Any,
    rung_name: str,
    batch: int = 1,
    length: int = 2048,
    gpu: bool = True,
    started: bool = False,
) -> Inference:
    """Peak bytes of loading a model on a rung and filling a context of `length` tokens.

    The worst case: a prompt as long as the context, read in one go.

    Args:
        config: of the model, as `config` gives it.
        rung_name: one of the ladder.
        batch: how many sequences at once.
        length: tokens of each.
        gpu: on a CUDA card, where the framework's overhead is added; else on a CPU, where the
            copies of `gptq_copies` are.
        started: CUDA runs in this process already, so its overhead is in no free memory any more.
    """
    parts = {
        "weights": weights(config, rung_name).total,
        "kv cache": kv_cache(config, rung_name, batch, length),
        "activations": activations(config, rung_name, batch, length),
    }
    if overhead := (0 if started else CUDA_OVERHEAD) if gpu else gptq_copies(config, rung_name):
        parts["overhead"] = overhead
    return Inference(parts, rung_name, batch, length)


def gptq_copies(config: Any, rung_name: str) -> int:
    """Bytes that the CPU's kernel for 4-bit GPTQ adds to the checkpoint's own at its first use.

    For each group and output the packed zero becomes one of 16 bits, and scale and zero are held
    once more side by side; each layer gets an int64 order of its inputs (GPTQModel 7.6,
    `TorchFusedLinear.transform_cpu`). 0 on other rungs.
    """
    r = rung(rung_name)
    if r.kind != "gptq" or r.bits != 4:
        return 0
    linear = [t.shape for t in shapes(config) if t.kind == "linear"]
    groups = sum(rows * columns // r.group_size for rows, columns in linear)
    return groups * 11 // 2 + sum(8 * columns for _, columns in linear)


def decode_limit(config: Any, rung_name: str, bandwidth_gb_s: float) -> float:
    """Most tokens/s one sequence can be generated with: each token reads every weight once.

    Bandwidth over bytes; of the embeddings only one row is read, unless they are the output head
    as well (arXiv 2211.05102, section 2.1). Not a forecast: kernels that unpack 4 bits slowly stay
    far below it, and speculative decoding passes it.

    Raises:
        CourseError: a mixture of experts, where a token reads some of them only.
    """
    w = weights(config, rung_name)
    if any(len(t.shape) > 2 and t.kind == "kept" for t in shapes(config)):
        raise CourseError(
            f"There is no such limit for a {config.model_type} model.",
            "A token does not read all its weights: it is a mixture of experts, or convolves.",
            "Take a model in which every token passes through every layer.",
        )
    unread = w.parts.get("embeddings", 0) if "head" in w.parts else 0
    return bandwidth_gb_s * 1e9 / (w.total - unread)
