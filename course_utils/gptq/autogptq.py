"""AutoGPTQ in an environment of its own, made by `python -m course_utils setup autogptq`.

auto-gptq 0.7.1 is its last release (2024). It needs transformers below 4.57, which the course
cannot have, so it lives in `.venv-autogptq` and is only ever run there, in child processes.
"""

import hashlib
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from course_utils.errors import CourseError
from course_utils.gptq import build as gptq_build
from course_utils.gptq import layouts as gptq_layouts
from course_utils.gptq import recipes as gptq_recipes
from course_utils.gptq.child import Home
from course_utils.gptq.gptqmodel import install

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".venv-autogptq"
PINS = ROOT / "constraints-autogptq.txt"
WANTED = ("auto-gptq", "torch", "transformers", "accelerate", "peft", "optimum", "numpy")
ENV = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
NEEDS = (
    "the network once, 1.5 GB of disk, and Python 3.11 (a newer one may not have the old packages)"
)
SETUP = "Run `make autogptq`, or: python -m course_utils setup autogptq"


def python() -> Path:
    """The Python of AutoGPTQ's environment, whether it is there or not."""
    return HOME / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def home() -> Home:
    """The environment as a child process's home: on the CPU where there is no CUDA."""
    return Home(python(), ENV, gptq_recipes.let_autogptq_use_the_cpu)


def _stamp() -> str:
    """What the environment was made from: the pins and the Python."""
    pins = PINS.read_bytes() if PINS.is_file() else b""
    return f"{hashlib.sha256(pins).hexdigest()[:16]} {'.'.join(map(str, sys.version_info[:3]))}"


def why_not() -> str | None:
    """One line why AutoGPTQ cannot run here; None where it can."""
    if not (HOME / "ready").is_file() or not python().exists():
        return "Not set up: AutoGPTQ's own environment (.venv-autogptq)."
    if (HOME / "ready").read_text(encoding="utf-8") != _stamp():
        return "Out of date: AutoGPTQ's own environment (.venv-autogptq) was made from other pins."
    return None


def check_ready() -> None:
    """Raise `CourseError` where the environment is missing or out of date."""
    reason = why_not()
    if reason:
        raise CourseError(
            "AutoGPTQ is not set up here.", reason, f"{SETUP} (a minute or two, about 1.5 GB)."
        )


def setup() -> str:
    """Make the environment, unless it is there; nothing half-made stays.

    auto-gptq is built from its source without its CUDA kernels: its wheels stop at Python 3.11
    and belong to older versions of PyTorch.

    Returns:
        What to tell.

    Raises:
        CourseError: the pins are missing, or pip failed: no network, a full disk, a Python for
            which a pinned package has no build.
    """
    if why_not() is None:
        return f"AutoGPTQ is ready in {HOME.name}."
    if not PINS.is_file():
        raise CourseError(
            f"{PINS.name} is not here.",
            "The course was installed without its repository.",
            "Clone the repository and run the command there.",
        )
    start = time.perf_counter()
    shutil.rmtree(HOME, ignore_errors=True)
    pip = [str(python()), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    try:
        install([sys.executable, "-m", "venv", str(HOME)], NEEDS)
        install([*pip, "--no-binary", "auto-gptq", "-c", str(PINS), *WANTED], NEEDS)
    except BaseException:
        shutil.rmtree(HOME, ignore_errors=True)
        raise
    (HOME / "ready").write_text(_stamp(), encoding="utf-8")
    return f"AutoGPTQ is ready in {HOME.name}, made in {time.perf_counter() - start:.0f} s."


def quantize(
    model: str | Path,
    out: str | Path,
    texts: Sequence[str],
    bits: int = 4,
    group_size: int = 128,
    recipe: gptq_build.Recipe | None = None,
) -> Path:
    """Quantize a checkpoint with auto-gptq, in its environment; see `gptq.quantize`.

    The weights' file and the settings are auto-gptq's own: `gptq_layouts.convert` makes them
    readable for others.
    Without CUDA, `from_pretrained` is replaced by one that works on the CPU
    (`gptq_recipes.let_autogptq_use_the_cpu`), for a recipe from a cell too.

    Raises:
        CourseError: no environment; or as `gptq.quantize`.
    """
    check_ready()
    order = gptq_build.Order(model, out, texts, bits, group_size)
    return gptq_build.build(recipe or gptq_recipes.with_autogptq, order, home())


def perplexities(
    folders: Sequence[str | Path], texts: Sequence[str], check: bool = True
) -> list[float]:
    """Perplexity of each GPTQ checkpoint when auto-gptq reads it, in its environment.

    Args:
        folders: checkpoints in format `gptq`, from auto-gptq or GPTQModel. One process reads all.
        texts: what to read.
        check: refuse what auto-gptq reads wrong without an error. Lesson 04 switches it off once.

    Raises:
        CourseError: no environment; or the checkpoint is `gptq_v2`.
    """
    check_ready()
    for folder in folders if check else ():
        gptq_layouts.check_readable(folder, "auto-gptq")
    return gptq_build.read(gptq_recipes.read_with_autogptq, folders, texts, home())
