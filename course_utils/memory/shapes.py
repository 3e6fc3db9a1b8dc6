"""A model's tensors without their memory: from a config.json to the shape of every layer.

The model is built on PyTorch's meta device, which has shapes and no storage: no weights are
needed and nothing is downloaded, whatever the size.
"""

import contextlib
import copy
import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.errors import CourseError
from course_utils.memory.rungs import part_of
from course_utils.models import POCKET

CONFIGS = Path(__file__).parent.parent / "data" / "configs"
NAMES = ("pocket", "llama-2-7b", "llama-2-13b", "llama-2-70b")


@dataclass(frozen=True)
class Shape:
    """One tensor of a model that is not loaded.

    Attributes:
        path: like `model.layers.0.mlp.up_proj.weight`.
        part: as in `PARTS`.
        shape: for a linear layer (out_features, in_features).
        kind: `linear` (a rung may quantize it), `kept` (in the rung's dtype) or `buffer`.
        element_bytes: of the tensor as the model defines it; what a buffer keeps.
        adapted: whether LoRA on all linear layers adapts it, as peft chooses them.
        fp32_in: dtypes in which transformers keeps this one in fp32 nevertheless.
    """

    path: str
    part: str
    shape: tuple[int, ...]
    kind: str
    element_bytes: int
    adapted: bool = False
    fp32_in: tuple[str, ...] = ()

    @property
    def numel(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


class Key:
    """A config as a key of a dict: equal where all settings are.

    Raises:
        CourseError: it is no config but, for example, a model's name.
    """

    def __init__(self, config: Any) -> None:
        """Check that it is a config, and note what it says."""
        if not hasattr(config, "model_type"):
            raise CourseError(
                f"{str(config)[:60]!r} is no config.",
                "A prediction needs the sizes of a model: how many layers, how wide.",
                'Pass what predict.config gives: predict.config("llama-2-7b"), or of a folder.',
            )
        self.config = config
        self._says = repr(vars(config))  # to_json_string() says the same a thousand times slower

    def __hash__(self) -> int:
        """Of what the config says."""
        return hash(self._says)

    def __eq__(self, other: object) -> bool:
        """Whether both say the same."""
        return isinstance(other, Key) and self._says == other._says


def config(name: str | Path) -> Any:
    """A model's config: one of `NAMES`, a folder with a config.json, or such a file.

    Raises:
        CourseError: nothing of that name, no config that transformers knows, or odd sizes.
    """
    from transformers import AutoConfig

    path = POCKET if name == "pocket" else CONFIGS / f"{name}.json"
    path = path if path.exists() else Path(name).expanduser()
    if not (path.is_file() or (path / "config.json").is_file()):
        raise CourseError(
            f"There is no config for {str(name)!r}.",
            "It is none of " + ", ".join(NAMES) + ", and no folder or file with a config.json.",
            "Write one of these names, or the path of a folder that holds a config.json.",
        )
    try:
        found = AutoConfig.from_pretrained(path)
    except Exception as error:  # of the hub library's, of json's, of each family's own checks
        raise CourseError(
            f"The config of {path.name} cannot be read.",
            _in_words(error),
            "Download it again, or use the config.json of a model that this transformers knows.",
        ) from None
    _check_sizes(found)
    return found


def _in_words(error: Exception) -> str:
    """What an error says, in one line."""
    if type(error).__name__ == "DataDependentOutputException":
        return "What it does next depends on its numbers, and a run on paper has none."
    said = " ".join(str(error).split())[:240]
    return f"transformers says: {said}" if " " in said else f"{type(error).__name__}: {said}"


def _check_sizes(config: Any) -> None:
    """Raise `CourseError` where the config's own sizes contradict each other."""
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    more = ("num_key_value_heads", "head_dim")
    sizes = dict.fromkeys((*names, *more), 1)
    for name in sizes:
        with contextlib.suppress(Exception):  # none of that name, or one for each layer
            sizes[name] = getattr(config, name)
    odd = [
        f"{name} is {n}"
        for name, n in sizes.items()
        if n is not None and (not isinstance(n, int) or n < 1)
    ]
    heads, shared = sizes["num_attention_heads"], sizes["num_key_value_heads"] or 1
    if not odd and heads and heads % shared:
        odd = [f"{heads} attention heads cannot share {shared} key-value heads"]
    if odd:
        raise CourseError(
            "The sizes in this config cannot be right.",
            f"{odd[0]}.",
            "Download the config.json again; write its sizes as whole numbers from 1 up.",
        )


def portable(config: Any) -> Any:
    """A copy that transformers may write into: building a model notes a dtype and more there.

    Without a wish for FlashAttention, which may be missing: no size needs it.
    """
    config = copy.deepcopy(config)
    if "flash" in str(getattr(config, "_attn_implementation", "")):
        config._attn_implementation = None
    return config


@contextlib.contextmanager
def told(config: Any) -> Iterator[None]:
    """Turn what transformers or PyTorch raise about a model into a `CourseError`."""
    try:
        yield
    except CourseError:
        raise
    except Exception as error:  # each family fails in its own way
        raise CourseError(
            f"No prediction for this {config.model_type} model.",
            _in_words(error),
            "Predictions need a model that writes text and that AutoModelForCausalLM can build: "
            "check its config.json, or load the model inside memory.measure().",
        ) from None


def shapes(config: Any) -> tuple[Shape, ...]:
    """Every tensor of the model, with its shape and without its memory. Tied weights come once.

    Raises:
        CourseError: the model cannot be built from this config, or does not write text.
    """
    return known(Key(config))


@functools.lru_cache(maxsize=128)
def known(key: Key) -> tuple[Shape, ...]:
    """`shapes`, remembered."""
    return tuple(_walk(on_meta(key.config)))


def on_meta(config: Any) -> Any:
    """The model of that config on the meta device: shapes, no memory, no download.

    Raises:
        CourseError: it cannot be built, or has an encoder beside its decoder.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if getattr(config, "is_encoder_decoder", False):
        raise CourseError(
            f"A {config.model_type} model reads with an encoder and writes with a decoder.",
            "Sizes and caches here are of models that go on with a text: a decoder alone.",
            "Take the config of a decoder: Llama, Mistral, Qwen, GPT-2 and the like.",
        )
    _check_sizes(config)
    with torch.device("meta"), told(config):
        return AutoModelForCausalLM.from_config(portable(config), dtype=torch.float16)


def quantized_layers(model: Any) -> dict[str, Any]:
    """{path: layer} of the linear layers that bitsandbytes quantizes, as transformers chooses them.

    All but the output head, tied weights, the last module, and what the model itself wants in fp32
    (`get_keys_to_not_convert`). GPT-2's `Conv1D` is a linear layer with its weight transposed.
    """
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    left_out = {*get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or ())}
    if tied := getattr(model, "all_tied_weights_keys", None):
        # while loading, nothing is tied yet: the last module is the head then, not this one
        last = [path for path, _ in model.named_parameters()][-1].removesuffix(".weight")
        left_out -= {last} - {k.removesuffix(".weight") for k in (*tied.keys(), *tied.values())}
    return {
        path: m
        for path, m in model.named_modules()
        if type(m) in (Linear, Conv1D) and should_convert_module(path, sorted(left_out))
    }


def layers(config: Any) -> list[str]:
    """The paths of the decoder layers in their order, like `model.layers.0`."""
    matches = (re.match(r".*?\.\d+(?=\.)", t.path) for t in shapes(config))
    return list(dict.fromkeys(m[0] for m in matches if m))


def _walk(model: Any) -> Iterator[Shape]:
    """The tensors of a model on the meta device."""
    import torch
    from transformers.pytorch_utils import Conv1D

    linear = {f"{path}.weight": m for path, m in quantized_layers(model).items()}
    output = model.get_output_embeddings()
    head = {f"{path}.weight" for path, m in model.named_modules() if m is output}
    adapted = {
        f"{path}.weight"
        for path, m in model.named_modules()
        if isinstance(m, (torch.nn.Linear, Conv1D)) and m is not output
    }
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    plans = {d: model._get_dtype_plan(getattr(torch, d)) for d in ("float16", "bfloat16")}
    for path, tensor in model.named_parameters():
        if path in tied:
            continue
        part = "head" if path in head else part_of(path)
        kind = "linear" if path in linear else "kept"
        shape = tuple(tensor.shape)
        if kind == "linear" and type(linear[path]).__name__ == "Conv1D":
            shape = shape[::-1]
        exact = tuple(d for d, plan in plans.items() if any(re.search(k, path) for k in plan))
        yield Shape(path, part, shape, kind, tensor.element_size(), path in adapted, exact)
    for path, tensor in model.named_buffers():
        yield Shape(path, "buffers", tuple(tensor.shape), "buffer", tensor.element_size())
