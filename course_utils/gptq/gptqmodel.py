"""GPTQ with GPTQModel: quantize in a process of its own, load into this one without side effects.

Importing gptqmodel changes the process: it points the hub's caches elsewhere, turns the root logger
up, installs warning filters, sets CUDA variables and prints a banner. So quantizing happens in a
child process. Loading cannot: `from_pretrained` of a GPTQ checkpoint imports gptqmodel here. Inside
`quiet_gptq()` all of that is undone.

How checkpoints lie on disk is `gptq_layouts`' business, AutoGPTQ is `autogptq`'s.
"""

import contextlib
import io
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from course_utils import machine
from course_utils.errors import CourseError, ended_by
from course_utils.gptq import build as gptq_build
from course_utils.gptq.child import Home
from course_utils.gptq.recipes import with_gptqmodel

INSTALL = 'Run `make gptq`, or: pip install -c constraints.txt -e ".[gptq]"'
NO_COMPILER = (
    "Installing it compiles a small package, and there is no C compiler with Python's headers here."
)


def why_not() -> str | None:
    """One line why GPTQ cannot run here; None where it can. Imports nothing."""
    missing = [name for name in ("gptqmodel", "optimum") if not find_spec(name)]
    if not missing:
        return None
    said = f"Not installed: {' and '.join(missing)}, an optional part of the course (gptq)."
    return said if "gptqmodel" not in missing or has_compiler() else f"{said} {NO_COMPILER}"


def has_compiler() -> bool:
    """Whether pip can build a C extension here, as one of gptqmodel's packages asks for."""
    if sys.platform == "win32":
        return bool(shutil.which("cl") or os.environ.get("VSINSTALLDIR"))
    own = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "").split()
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return headers.is_file() and any(shutil.which(name) for name in (*own[:1], "cc", "gcc"))


def compiler_advice() -> str:
    """How to get a C compiler and Python's headers on this system."""
    return {
        "Darwin": "Run `xcode-select --install`.",
        "Windows": "Install the Visual Studio Build Tools (C++), or use WSL.",
    }.get(platform.system(), "On Debian or Ubuntu: `sudo apt install gcc python3-dev`.")


def setup() -> str:
    """Add the extra to this environment, in the tested versions.

    Returns:
        What to tell.

    Raises:
        CourseError: no compiler, no repository here, or pip failed.
    """
    root = Path(__file__).parents[2]
    if not (root / "constraints.txt").is_file():
        raise CourseError(
            "constraints.txt is not here.",
            "The course was installed without its repository.",
            "Clone the repository and run the command there.",
        )
    if why_not() and not has_compiler():
        raise CourseError("GPTQ cannot be installed.", NO_COMPILER, compiler_advice())
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    start = time.perf_counter()
    extra = ["-c", str(root / "constraints.txt"), "-e", f"{root}[gptq]"]
    install([*pip, *extra], "the network once and a C compiler")
    return f"GPTQ is ready, installed in {time.perf_counter() - start:.0f} s."


def install(command: list[str], needs: str) -> None:
    """Run one step of a set-up, quietly unless it fails.

    Raises:
        CourseError: it failed, with what it said and what it needs.
    """
    env = {**os.environ, "BUILD_CUDA_EXT": "0"}  # auto-gptq without its CUDA kernels
    done = subprocess.run(command, env=env, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in said if re.match(r"(?i)error|.*(No space left|Errno)", line)]
        raise CourseError(
            "The installation failed.",
            ended_by(done.returncode)
            or "\n      ".join((errors or said or ["pip said nothing."])[-3:]),
            f"It needs {needs}. The rest of the course does without it.",
        )


def check_installed() -> None:
    """Raise `CourseError` where the extra is missing, with what to do first."""
    reason = why_not()
    if reason:
        first = f"{compiler_advice()} Then: " if NO_COMPILER in reason else ""
        raise CourseError("GPTQ is not installed here.", reason, first + INSTALL)


def quantize(
    model: str | Path,
    out: str | Path,
    texts: Sequence[str],
    bits: int = 4,
    group_size: int = 128,
    recipe: gptq_build.Recipe | None = None,
) -> Path:
    """Quantize a checkpoint with GPTQ into a new folder that `from_pretrained` loads.

    Runs in a child process, on the GPU where there is one, else on the CPU. A line shows how far
    it is: seconds for Pocket Llama, 74 s for 107 M parameters on two cores, hours for 7B there.

    Args:
        model: folder of a checkpoint that is not quantized.
        out: the folder to make. It appears when it is whole; one made before is replaced.
        texts: calibration texts, like the model will read; a BOS in front is taken care of.
        bits: 4 or 8.
        group_size: how many weights of a row share a scale: 128, 64 or 32.
        recipe: the function that does it, `recipe(model, out, texts, bits, group_size)`, from a
            cell or a module: self-contained, with its imports inside. By default
            `with_gptqmodel`.

    Returns:
        `out`, absolute.

    Raises:
        CourseError: the extra is missing; bits, group size, texts or checkpoint do not do; the
            disk is full; the recipe failed.

    Example:
        >>> folder = gptq.quantize(models.model_path(), "pocket-gptq", texts)  # doctest: +SKIP
        >>> AutoModelForCausalLM.from_pretrained(folder)  # doctest: +SKIP
    """
    check_installed()
    order = gptq_build.Order(model, out, texts, bits, group_size)
    return gptq_build.build(recipe or with_gptqmodel, order, home())


def home() -> Home:
    """This Python as a child process's home, with GPTQModel's settings."""
    return Home(env=env())


@contextlib.contextmanager
def quiet_gptq() -> Iterator[None]:
    """Load a GPTQ checkpoint inside this block and the notebook stays as it was.

    The first block imports gptqmodel (seconds), later ones find it there. At the end the
    environment variables, the root logger, the warning filters and the working folder are what
    they were at the start. gptqmodel's own log stays at errors for good.

    Raises:
        CourseError: the extra is missing.

    Example:
        >>> with gptq.quiet_gptq():  # doctest: +SKIP
        ...     model = AutoModelForCausalLM.from_pretrained(folder)
    """
    check_installed()
    # these read the hub's variables once, when they are imported: so before gptqmodel moves them
    import transformers  # noqa: F401
    from huggingface_hub import constants  # noqa: F401

    with restored():
        if "gptqmodel" not in sys.modules:
            _import_quietly()
        yield


def _import_quietly() -> None:
    """Import gptqmodel without its banner, and let it log errors only.

    On a CPU its plain PyTorch kernel, the one for 8 bits, would be compiled at its first use: that
    takes half a minute and a C++ compiler, and gains nothing that a lesson could see. Without
    HF_HOME it would make a folder /tmp/tokenicer_hf_home and leave it there.
    """
    os.environ.update({name: value for name, value in env().items() if name.startswith("GPTQ")})
    logging.disable(logging.CRITICAL)
    nowhere = io.StringIO()
    hide = contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere)
    with hide[0], hide[1], tempfile.TemporaryDirectory() as place:
        os.environ.setdefault("HF_HOME", place)
        import gptqmodel  # noqa: F401
        import torch
        from gptqmodel.nn_modules.qlinear import torch as plain_kernel
    logging.disable(logging.NOTSET)
    logging.getLogger("logbar").setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        plain_kernel.torch_compile = lambda function, **how: function


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Put back at the end: environment, root logger, warning filters, working folder."""
    environment, folder, disabled = dict(os.environ), Path.cwd(), logging.root.manager.disable
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(disabled)
            root.setLevel(level)
            root.handlers[:] = handlers
            for name in set(os.environ) - set(environment):
                del os.environ[name]
            for name, value in environment.items():
                if os.environ.get(name) != value:
                    os.environ[name] = value
            if Path.cwd() != folder:
                os.chdir(folder)


def env() -> dict[str, str]:
    """Settings for GPTQModel's process.

    Left alone it starts half as many workers as there are cores and then asks for two at once: on
    one or two cores it would stop. Its packing extension is compiled on first use, for half a
    minute, and makes the same bytes as without.
    """
    workers = min(12, max(2, (machine.cores() + 1) // 2))
    return {
        "GPTQMODEL_CPU_WORKERS": str(workers),
        "GPTQMODEL_DISABLE_PACK_EXT": "1",
        "GPTQMODEL_DISABLE_GIL_WARNING": "1",
        "TORCHDYNAMO_DISABLE": "1",  # see _import_quietly
        "HF_HUB_OFFLINE": "1",
    }
