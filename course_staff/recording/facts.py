"""What a reference run says about itself: the device, the versions, the model."""

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from course_utils import machine, models
from course_utils.memory import predict

PACKAGES = ("torch", "transformers", "accelerate", "bitsandbytes", "peft", "gptqmodel")


def place() -> str:
    """The device to measure on, as PyTorch writes it."""
    import torch

    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def fast_dtype() -> str:
    """The dtype that this machine computes fast in, by PyTorch's name.

    A GPU computes in 16 bits. Most CPUs do not: they turn every number into 32 bits and back.
    Measured with SmolLM2 on one core kept to AVX2, 8 texts at once: 35 tokens/s in fp32, 8 in bf16.
    """
    return "float16" if machine.gpus() else "float32"


def device() -> dict[str, Any]:
    """What the run is measured on: a card with its driver, or a processor with its cores."""
    import torch

    facts: dict[str, Any] = {"platform": platform.system(), "cores": machine.cores()}
    facts["ram_bytes"] = machine.ram_bytes()[0]
    facts["cpu"] = _processor()
    facts["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    facts["threads"] = torch.get_num_threads()
    if hasattr(os, "getloadavg"):  # other programs on these cores: speeds are lower then
        facts["load_before"] = round(os.getloadavg()[0], 1)
    facts["name"] = facts["cpu"]
    for gpu in machine.gpus()[:1]:
        facts |= {"name": gpu.name, "kind": gpu.kind, "total_bytes": gpu.total_bytes}
        facts |= {"capability": list(gpu.capability), "driver": _driver()}
    return facts


def _processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8"))
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def _driver() -> str | None:
    """The NVIDIA driver's version, where nvidia-smi is there to say."""
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    return answer.stdout.split("\n")[0].strip() or None


def versions() -> dict[str, str | None]:
    """Versions of Python, CUDA and the libraries that matter; None where one is not installed."""
    import torch

    found: dict[str, str | None] = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def model(source: str, folder: str | None, config: Any) -> dict[str, Any]:
    """Name, sizes and kind of weights of the model; `folder` where they are a checkpoint's."""
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    more = ("num_key_value_heads", "vocab_size", "max_position_embeddings")
    return {
        "name": Path(source).name.removesuffix(".json"),
        "weights": "checkpoint" if folder else "random, of the real shapes",
        "fingerprint": models.fingerprint(folder) if folder else None,
        "parameters": predict.weights(config, "fp16").parameters,
        "config": {key: getattr(config, key) for key in (*keys, *more)},
    }


def outside_pytorch() -> int | None:
    """Bytes in use on the card that PyTorch's allocator does not hold: context, kernels, others."""
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info(0)
    return total - free - torch.cuda.memory_reserved(0)
