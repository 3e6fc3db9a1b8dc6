"""The course's settings: which model, which API, whose keys.

| variable | meaning | default |
| --- | --- | --- |
| `COURSE_MODEL` | `pocket`, `smollm2`, a hub id or a folder with such a chat model | `pocket` |
| `COURSE_CACHE` | the folder that `get smollm2` unpacks into | `open-llms-hands-on` in `HF_HOME` |
| `COURSE_API_MODEL` | the model's name at the API | the first on offer; at OpenAI `gpt-4.1-mini` |
| `OPENAI_API_KEY` | key for the API lesson | none: a local server is started |
| `OPENAI_BASE_URL` | any OpenAI-compatible server | OpenAI's own |
| `HF_TOKEN` | Hugging Face token, for gated models | none |
| `HF_ENDPOINT` | a mirror of the hub | Hugging Face's own |
| `COURSE_STATIC` | `1`: pictures in place of widgets and progress bars | `0` |

With nothing set, everything runs on the bundled model and no network is touched. Where a file of
progress lies is `checks`' affair.
"""

import contextlib
import io
import logging
import os
import sys
from pathlib import Path

from course_utils.errors import CourseError

POCKET, SMALL = "pocket", "smollm2"
SMALL_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
# set beside HF_HUB_OFFLINE where the course set that, and not the learner
SWITCHED_OFF = "COURSE_SWITCHED_THE_HUB_OFF"
QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
# PyTorch's threads wait for each other by spinning, which on a busy machine takes the cores from
# the very threads they wait for. See `prepare`.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
# What comes with gptqmodel makes these warn, in every lesson, of kernels that this machine lacks;
# the last says for each layer and token that LLM.int8() computes in 16 bits.
QUIET_LOGGERS = (
    *("torchao", "torch.utils._pytree"),
    *("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"),
)


def known(name: str) -> str:
    """A model's name as the course writes it: `pocket` and `smollm2` in any writing."""
    name = name.strip().strip("'\"")
    ours = {"": POCKET, POCKET: POCKET, SMALL: SMALL, SMALL_ON_HUB.lower(): SMALL}
    return ours.get(name.lower(), name)


def model_name() -> str:
    """`pocket`, `smollm2`, a hub id or a folder: which model the local lessons use."""
    return known(os.environ.get("COURSE_MODEL", ""))


def tier() -> str:
    """`pocket` with the bundled model, `small` with SmolLM2, `full` with any other."""
    return {POCKET: "pocket", SMALL: "small"}.get(model_name(), "full")


def api_is_local() -> bool:
    """Whether lesson 01 has to start its own server: no key and no base URL is set anywhere.

    Raises:
        CourseError: the key is there but was pasted wrongly.
    """
    return not (secret("OPENAI_API_KEY") or plain("OPENAI_BASE_URL"))


def api_model() -> str | None:
    """The API model's name where the learner set one."""
    return plain("COURSE_API_MODEL")


def plain(name: str) -> str | None:
    """A setting that is no secret, from the environment or `.env`, without spaces around it.

    One from `.env` is put into the environment, where the libraries read it.
    """
    _forget_file(name)
    value = os.environ.get(name, "").strip()
    if not value and not static():
        value = _from_env_file(name) or ""
        if value:
            os.environ[name] = _of_file[name] = value  # and it is known to be the file's
    return value or None


_of_file: dict[str, str] = {}


def _forget_file(name: str) -> None:
    """Take a value that `.env` gave out of the environment: the file may have been corrected."""
    if _of_file.pop(name, None) == os.environ.get(name, ""):
        del os.environ[name]


def static() -> bool:
    """Whether pictures stand in for widgets: while notebooks are executed by a program."""
    return os.environ.get("COURSE_STATIC", "0") not in ("", "0")


def on_colab() -> bool:
    """Whether this is Google Colab."""
    if "COLAB_RELEASE_TAG" in os.environ:
        return True
    try:
        import google.colab  # noqa: F401
    except ImportError:
        return False
    return True


def on_kaggle() -> bool:
    """Whether this is a Kaggle notebook."""
    return "KAGGLE_KERNEL_RUN_TYPE" in os.environ


def prepare() -> None:
    """Set the quiet, offline defaults that hold for the whole course; never override the learner's.

    Call it before transformers is imported. In the pocket tier the hub is switched off, so that
    nothing waits for a network that is not there.

    Call it before PyTorch and transformers are imported; kernels and child processes inherit it.
    `WAITING` lets PyTorch's threads sleep instead of spin (GNU OpenMP, so Linux). Measured on 2
    cores, Pocket Llama labelling reviews in batches with 2 threads: 16 reviews/s by default and 180
    with it beside one busy program; 375 and 300 on a quiet machine. Set either variable yourself,
    like OMP_WAIT_POLICY=ACTIVE, and neither is touched. Where PyTorch was imported first, both come
    too late: on a busy machine it then gets one thread, and that is said.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not os.environ.keys() & WAITING.keys():
        os.environ.update(WAITING)
        _calm_threads()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # into a file, Windows writes an old encoding
            stream.reconfigure(errors="replace")
    # Said aloud, though it is only the default: what comes with gptqmodel moves it for all child
    # processes where it is not set, and a server would not find the model that its kernel has.
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    os.environ.setdefault("HF_HOME", os.path.expanduser(os.path.join(caches, "huggingface")))
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if tier() == "pocket" and "HF_HUB_OFFLINE" not in os.environ:
        os.environ["HF_HUB_OFFLINE"] = os.environ[SWITCHED_OFF] = "1"
    elif tier() != "pocket" and os.environ.pop(SWITCHED_OFF, ""):
        os.environ.pop("HF_HUB_OFFLINE", "")  # JupyterLab was started in the pocket tier
    if static():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if on_kaggle() and tier() != "full":
        # of its two GPUs one: a small model gains nothing, and a trainer would split every batch
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")


def _calm_threads() -> None:
    """One thread for a PyTorch whose threads spin already, where other programs use the cores.

    Beside two busy programs on 2 cores, Pocket Llama one review at a time: 0.4 reviews/s with two
    spinning threads, 41 with one (shared with no one, two are faster: they stay).
    """
    torch = sys.modules.get("torch")
    if torch is None or not sys.platform.startswith("linux") or torch.get_num_threads() == 1:
        return
    import psutil

    busy = psutil.cpu_percent(interval=0.2)  # of all cores; this process sleeps meanwhile
    if busy > 50:
        torch.set_num_threads(1)
        print(
            f"PyTorch was imported before settings.prepare(), and other programs use {busy:.0f} %"
            " of the processor: one thread is used. Restart and prepare first, and all are."
        )


def _from_colab(name: str) -> str | None:
    """The secret from Colab's key panel; None where it is absent or not granted."""
    try:
        from google.colab import userdata
        from IPython import get_ipython

        if get_ipython() is None:
            return None  # a program in Colab's terminal: the page is out of reach, asking waits
        return userdata.get(name) or None
    except Exception:
        # SecretNotFoundError, NotebookAccessError, TimeoutException: many ways, one meaning
        return None


def _from_kaggle(name: str) -> str | None:
    """The secret from Kaggle's Add-ons, Secrets; None where it is absent or not attached."""
    try:
        from kaggle_secrets import UserSecretsClient

        return UserSecretsClient().get_secret(name) or None
    except Exception:
        # CredentialError, BackendError, ConnectionError without internet: one meaning
        return None


def env_files() -> list[Path]:
    """The `.env` files that count: of this folder and those above it, up to the project or home.

    Only one's own: with a file of another account above it, a shared folder could send a key to
    whatever address that file names.
    """
    try:
        here = Path.cwd()
    except OSError:  # the working folder has been deleted
        return []
    found = []
    for place in (here, *here.parents):
        path = place / ".env"
        with contextlib.suppress(OSError):
            if not _is_mine(place):
                break
            if path.is_file() and _is_mine(path):
                found.append(path)
        if (place / ".git").exists() or str(place) == os.path.expanduser("~"):
            break
    return found


def _is_mine(path: Path) -> bool:
    """Whether a file or folder belongs to this account; always where systems don't say so.

    Root, as in a container, also owns what belongs to the owner of the folder it works in.
    """
    if not hasattr(os, "getuid"):
        return True
    mine = {os.getuid()} | ({Path.cwd().stat().st_uid} if os.getuid() == 0 else set())
    return path.stat().st_uid in mine


def _from_env_file(name: str) -> str | None:
    """The value of `name` in the nearest `.env`; None where it has none, or cannot be read."""
    for path in env_files()[:1]:
        try:
            lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        except OSError:
            return None
        for line in lines:
            key, equals, value = line.strip().removeprefix("export ").partition("=")
            if equals and key.strip() == name:
                value = value.strip()
                if value[:1] in ("'", '"'):
                    return value[1:].partition(value[0])[0] or None
                return value.partition(" #")[0].strip() or None
    return None


def secret(name: str) -> str | None:
    """A secret, from Colab's or Kaggle's store, then the environment, then the nearest `.env`.

    It is put into the environment for the libraries that read it there. Never print it. While a
    program runs the notebooks only the environment counts.

    Returns:
        The value, or None where there is none.

    Raises:
        CourseError: it holds a space, a line break or a letter that no key has: pasted wrongly.
    """
    value = None
    if not static():
        value = _from_kaggle(name) if on_kaggle() else _from_colab(name) if on_colab() else None
    value = (value or "").strip() or plain(name)
    if not value:
        return None
    if not value.isascii() or any(c.isspace() or not c.isprintable() for c in value):
        _forget_file(name)
        raise CourseError(
            f"{name} holds a character that no key has: a space, a line break, a curly quote.",
            "Something else was pasted along with it.",
            f"Set {name} again, with the key alone.",
        )
    os.environ[name] = value
    return value
