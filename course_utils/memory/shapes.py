"""A model's tensors without their memory: from a config.json to the shape of every layer.

The model is built on PyTorch's meta device, which has shapes and no storage: no weights are
needed and nothing is downloaded, whatever the size.
"""

import math
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
    """

    path: str
    part: str
    shape: tuple[int, ...]
    kind: str
    element_bytes: int

    @property
    def numel(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def config(name: str | Path) -> Any:
    """A model's config: one of `NAMES`, a folder with a config.json, or such a file.

    Raises:
        CourseError: nothing of that name, or no config that transformers knows.
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
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(
            f"The config of {path.name} cannot be read.",
            str(error).splitlines()[0],
            "Download it again, or use the config.json of a Llama-like model.",
        ) from None


_shapes: dict[str, tuple[Shape, ...]] = {}


def shapes(config: Any) -> tuple[Shape, ...]:
    """Every tensor of the model, with its shape and without its memory. Tied weights come once."""
    key = repr(vars(config))  # to_json_string() says the same a thousand times slower
    if key not in _shapes:
        _shapes[key] = tuple(_walk(on_meta(config)))
    return _shapes[key]


def on_meta(config: Any) -> Any:
    """The model of that config on the meta device: shapes, no memory, no download."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float16)


def quantized_layers(model: Any) -> dict[str, Any]:
    """{path: layer} of the linear layers that bitsandbytes and GPTQ quantize: all but the head.

    The same choice as transformers' `get_keys_to_not_convert`: output head and tied weights stay.
    """
    from torch.nn import Linear

    head = model.get_output_embeddings()
    layers = model.named_modules()
    return {path: m for path, m in layers if type(m) is Linear and m is not head}


def _walk(model: Any) -> Iterator[Shape]:
    """The tensors of a model on the meta device."""
    linear = {f"{path}.weight" for path in quantized_layers(model)}
    head = {
        f"{path}.weight" for path, m in model.named_modules() if m is model.get_output_embeddings()
    }
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    for path, tensor in model.named_parameters():
        if path in tied:
            continue
        part = "head" if path in head else part_of(path)
        kind = "linear" if path in linear else "kept"
        yield Shape(path, part, tuple(tensor.shape), kind, tensor.element_size())
    for path, tensor in model.named_buffers():
        yield Shape(path, "buffers", tuple(tensor.shape), "buffer", tensor.element_size())
