"""Models to record: a checkpoint from a folder, or random weights of the real shapes.

Random weights need no download. They are made one layer at a time and quantized at once, so that
even a 70B model never needs its 16-bit weights together. Speed and bytes are those of the real
model; what it says is noise.
"""

from typing import Any

from course_staff.recording import checkpoints
from course_utils.errors import CourseError
from course_utils.memory import fit, predict, shapes
from course_utils.memory.rungs import Rung, rung

SPREAD = 0.02  # Llama 2's initializer_range: numbers stay small enough for fp16 through 80 layers


def load_arguments(name: str) -> dict[str, Any]:
    """What `from_pretrained` is given to load plain weights onto this rung, as in lesson 04.

    For bitsandbytes, `dtype` decides what embeddings, norms and head are held in.

    Raises:
        CourseError: no such rung, or a GPTQ rung: those are made beforehand, not while loading.
    """
    import torch

    r = rung(name)
    if r.kind == "gptq":
        raise CourseError(
            f"A {r.name} model cannot be made while loading.",
            "GPTQ calibrates on text and writes a checkpoint of its own.",
            "Quantize once as in lesson 04, then load that folder with plain from_pretrained.",
        )
    dtype = getattr(torch, r.dtype)
    if r.kind == "float":
        return {"dtype": dtype}
    from transformers import BitsAndBytesConfig

    if r.kind == "int8":
        return {"dtype": dtype, "quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=r.code,
        bnb_4bit_use_double_quant=r.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"dtype": dtype, "quantization_config": config}


def loaded(folder: str, rung_name: str, device: str) -> Any:
    """The checkpoint in `folder` on a rung, ready to run on `device`.

    Raises:
        CourseError: the checkpoint is quantized in another way, or the rung needs one that is
            quantized beforehand and this is not.
    """
    from transformers import AutoModelForCausalLM

    config = predict.config(folder)
    fit.check_checkpoint(config, rung(rung_name))
    ready = getattr(config, "quantization_config", None)
    if ready and rung(rung_name).kind == "gptq":
        return checkpoints.load(folder, device)
    arguments = {} if ready else load_arguments(rung_name)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, device_map={"": device}, **arguments)
    except ImportError as error:
        raise CourseError(
            f"A library for {rung_name} is missing.",
            str(error).splitlines()[0],
            "For GPTQ: pip install 'open-llms-hands-on[gptq]'.",
        ) from None
    return model.eval()


def streamed(config: Any, rung_name: str, device: str, dtype: str | None = None) -> Any:
    """A model of random weights on a rung, built on `device` layer by layer.

    Args:
        config: the model's config.
        rung_name: any rung but GPTQ, whose packed weights only calibration makes.
        device: like `cuda:0` or `cpu`.
        dtype: for what stays unquantized, in place of the rung's own, like `bfloat16`.

    Raises:
        CourseError: a GPTQ rung.
    """
    import torch

    r = rung(rung_name)
    load_arguments(rung_name)  # refuses what cannot be made from plain weights
    kind = getattr(torch, dtype or r.dtype)
    model = shapes.on_meta(config)
    random = torch.Generator(device).manual_seed(0)
    for path, layer in shapes.quantized_layers(model).items():
        weight = _noise(layer.weight.shape, kind, device, random)
        if r.kind == "float":
            layer.weight = torch.nn.Parameter(weight, requires_grad=False)
        else:
            model.set_submodule(path, _quantized(layer, weight, r, kind))
    for module in list(model.modules()):
        _fill(module, config, kind, device, random)
    if config.tie_word_embeddings:
        model.tie_weights()
    # what transformers notes on a loaded model, and peft asks for
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = r.kind == "bnb4", r.kind == "int8"
    return model.eval()


def _noise(shape: Any, dtype: Any, device: str, random: Any) -> Any:
    """Normal noise of that shape."""
    import torch

    return torch.empty(shape, dtype=dtype, device=device).normal_(0, SPREAD, generator=random)


def _quantized(layer: Any, weight: Any, r: Rung, dtype: Any) -> Any:
    """A bitsandbytes layer in place of a linear one, holding `weight` quantized.

    The same layers and arguments as transformers' `replace_with_bnb_linear`.
    """
    import torch
    from bitsandbytes.functional import int8_vectorwise_quant
    from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    rows, columns = weight.shape
    new: Any
    if r.kind == "int8":
        with torch.device("meta"):
            new = Linear8bitLt(columns, rows, bias=False, has_fp16_weights=False, threshold=6.0)
        # what Int8Params does when it moves to a device, without the detour through the CPU
        values, scales, _ = int8_vectorwise_quant(weight.to(torch.float16))
        new.weight = Int8Params(values, False, has_fp16_weights=False, CB=values, SCB=scales)
    else:
        double: dict[str, Any] = {"compress_statistics": r.double_quant, "quant_type": r.code}
        with torch.device("meta"):
            new = Linear4bit(columns, rows, bias=False, compute_dtype=dtype, **double)
        packed: Any = Params4bit(weight, requires_grad=False, module=new, **double)
        new.weight = packed.to(weight.device)
    if layer.bias is not None:
        new.bias = layer.bias
    return new


def _fill(module: Any, config: Any, dtype: Any, device: str, random: Any) -> None:
    """Give a module's own tensors that are still on the meta device their memory."""
    import torch

    for name, parameter in list(module._parameters.items()):
        if parameter is not None and parameter.device.type == "meta":
            if parameter.dim() == 1:
                value = torch.ones(parameter.shape, dtype=dtype, device=device)
            else:
                value = _noise(parameter.shape, dtype, device, random)
            setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
    if any(buffer.device.type == "meta" for buffer in module._buffers.values()):
        real = type(module)(config=config)  # rotary frequencies: computed, never stored
        for name, buffer in real.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
