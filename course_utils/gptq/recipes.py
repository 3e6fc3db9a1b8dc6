"""What the quantizers' child processes do: the libraries' own calls, each in one short function.

A function here is run by its source (see `child`), so it is self-contained: imports inside, JSON in
and out. `perplexity` is sent along with those that read a checkpoint.
"""

from course_utils.perplexity import perplexity


def with_gptqmodel(model: str, out: str, texts: list[str], bits: int, group_size: int) -> None:
    """Quantize with GPTQModel's own quantizer; writes format `gptq`."""
    import torch
    from gptqmodel import GPTQModel, QuantizeConfig

    method = QuantizeConfig(bits=bits, group_size=group_size)
    quantizer = GPTQModel.load(model, method, dtype=torch.float16)
    quantizer.quantize(texts, batch_size=8)
    quantizer.save(out)


def with_autogptq(model: str, out: str, texts: list[str], bits: int, group_size: int) -> None:
    """Quantize with auto-gptq, in its own environment (transformers 4.49 there)."""
    from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    method = BaseQuantizeConfig(bits=bits, group_size=group_size, desc_act=False)
    quantizer = AutoGPTQForCausalLM.from_pretrained(model, method)
    quantizer.quantize([tokenizer(text) for text in texts], batch_size=8)
    quantizer.save_quantized(out)
    tokenizer.save_pretrained(out)


def let_autogptq_use_the_cpu() -> None:
    """Where there is no CUDA, make auto-gptq quantize on the CPU, which it refuses by itself.

    Its arithmetic is plain PyTorch. Only `from_pretrained` asks for CUDA, one constant names the
    card that layers move to, and `torch.cuda.synchronize()` stands between them.
    """
    import torch

    if torch.cuda.is_available():
        return
    from auto_gptq import AutoGPTQForCausalLM
    from auto_gptq.modeling import _base
    from auto_gptq.modeling.auto import GPTQ_CAUSAL_LM_MODEL_MAP
    from transformers import AutoModelForCausalLM

    def from_pretrained(folder, method):  # type: ignore[no-untyped-def]
        plain = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float16).eval()
        return GPTQ_CAUSAL_LM_MODEL_MAP[plain.config.model_type](plain, False, method)

    AutoGPTQForCausalLM.from_pretrained = from_pretrained
    _base.CUDA_0 = torch.device("cpu")
    torch.cuda.synchronize = lambda device=None: None


def read_with_autogptq(folders: list[str], texts: list[str]) -> list[float]:
    """Perplexity of each checkpoint when auto-gptq itself reads it."""
    import torch
    from auto_gptq import AutoGPTQForCausalLM
    from transformers import AutoTokenizer

    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    found = []
    for folder in folders:
        model = AutoGPTQForCausalLM.from_quantized(folder, device=device).model
        found.append(perplexity(model, AutoTokenizer.from_pretrained(folder), texts))
    return found
