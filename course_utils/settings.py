"""The course's settings, read from the environment in this one place.

| variable | meaning | default |
| --- | --- | --- |
| `COURSE_MODEL` | `pocket`, `smollm2`, a hub id or a folder with such a chat model | `pocket` |
| `COURSE_CACHE` | the folder that `get smollm2` unpacks into | `open-llms-hands-on` in `HF_HOME` |
| `COURSE_API_MODEL` | the model's name at the API | the first on offer; at OpenAI `gpt-4.1-mini` |
| `OPENAI_API_KEY` | key for the API lesson | none: a local server is started |
| `OPENAI_BASE_URL` | any OpenAI-compatible server | OpenAI's own |
| `HF_TOKEN` | Hugging Face token, for gated models | none |
| `COURSE_STATIC` | `1`: pictures in place of widgets and progress bars | `0` |

With nothing set, everything runs on the bundled model and no network is touched.
"""

import logging
import os
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
# What comes with gptqmodel makes these warn, in every lesson, of kernels that this machine lacks.
QUIET_LOGGERS = ("torchao", "torch.utils._pytree", "bitsandbytes.backends.cpu.ops")


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
    value = os.environ.get(name, "").strip()
    if not value and not static():
        value = _from_env_file(name, Path.cwd()) or ""
        if value:
            os.environ[name] = value
    return value or None


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


def prepare() -> None:
    """Set the quiet, offline defaults that hold for the whole course; never override the learner's.

    Call it before transformers is imported. In the pocket tier the hub is switched off, so that
    nothing waits for a network that is not there.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if tier() == "pocket" and "HF_HUB_OFFLINE" not in os.environ:
        os.environ["HF_HUB_OFFLINE"] = os.environ[SWITCHED_OFF] = "1"
    elif tier() != "pocket" and os.environ.pop(SWITCHED_OFF, ""):
        os.environ.pop("HF_HUB_OFFLINE", "")  # JupyterLab was started in the pocket tier
    if static():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


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


def _from_env_file(name: str, folder: Path) -> str | None:
    """The value of `name` in the nearest `.env` of `folder` or the folders above it."""
    for place in (folder, *folder.parents):
        path = place / ".env"
        if path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                key, equals, value = line.strip().removeprefix("export ").partition("=")
                if equals and key.strip() == name:
                    value = value.strip()
                    if value[:1] in ("'", '"'):
                        return value[1:].partition(value[0])[0] or None
                    return value.partition(" #")[0].strip() or None
            return None
    return None


def _asked(name: str) -> str | None:
    """The secret typed in by the learner; None where nobody can be asked."""
    from getpass import getpass

    try:
        return getpass(f"{name} (not shown, not saved; Enter to go on without): ").strip() or None
    except (EOFError, NotImplementedError):
        # a kernel without a keyboard raises StdinNotImplementedError, a NotImplementedError
        return None


def secret(name: str, ask: bool = False) -> str | None:
    """A secret, from Colab's panel, then the environment, then `.env`, then (with `ask`) typed in.

    It is put into the environment for the libraries that read it there. Never print it. While a
    program runs the notebooks only the environment counts.

    Returns:
        The value, or None where there is none.

    Raises:
        CourseError: it holds a space, a line break or a letter that no key has: pasted wrongly.
    """
    value = _from_colab(name) if on_colab() and not static() else None
    value = (value or os.environ.get(name) or "").strip()
    if not value and not static():
        value = _from_env_file(name, Path.cwd()) or (_asked(name) if ask else None) or ""
    if not value:
        return None
    if not value.isascii() or any(c.isspace() or not c.isprintable() for c in value):
        raise CourseError(
            f"{name} holds a character that no key has: a space, a line break, a curly quote.",
            "Something else was pasted along with it.",
            f"Set {name} again, with the key alone.",
        )
    os.environ[name] = value
    return value
