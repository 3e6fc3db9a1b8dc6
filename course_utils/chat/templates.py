"""Chat templates of other model families, and whose each token of a rendered prompt is.

A chat template is a Jinja text that turns messages into one prompt. Every chat model's tokenizer
brings its own; three that differ from Llama 2's lie in `data/chat_templates/`. A template is a
program, and a stranger's one is tried in a process of its own before it runs here. This module
knows no model.
"""

import os
import re
import subprocess
import sys
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from course_utils import machine, models, settings
from course_utils.errors import CourseError
from course_utils.sentiment import Messages, check_chat

FOLDER = Path(__file__).parent.parent / "data" / "chat_templates"
FAMILIES = ("chatml", "llama3", "zephyr")
TOKENIZER = ["*.json", "*.jinja", "tokenizer.model", "*.txt"]
MARK = re.compile(r"<\|[^\s<>|]+\|>|</?s>")
SECONDS, BYTES = 20, 1 << 30  # what a template may take for one short chat
FULL = 77  # how the trial ends where the memory did not do
# Any error of the template is its own business: what counts here is that it ends, and small.
TRIAL = f"""
import contextlib, sys
from jinja2.sandbox import ImmutableSandboxedEnvironment
template = sys.stdin.read()
with contextlib.suppress(ImportError, ValueError, OSError):
    import resource
    resource.setrlimit(resource.RLIMIT_AS, ({BYTES}, {BYTES}))
rooms = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
chat = [{{"role": role, "content": "a"}} for role in ("system", "user", "assistant", "user")]
for some in (chat, chat[1:], chat[1:2]):
    try:
        rooms.from_string(template).render(messages=some, bos_token="", eos_token="")
    except MemoryError:
        sys.exit({FULL})
    except Exception:
        pass
"""


def load(name: str) -> str:
    """A family's chat template.

    Args:
        name: `chatml`, `llama3` or `zephyr` for the course's own renderings of these formats;
            a folder or a hub id (like `HuggingFaceH4/zephyr-7b-beta`) for the template that this
            model's tokenizer brings. That fetches a few megabytes, and no weights.

    Raises:
        CourseError: no such name, the hub is out of reach or gated, or see `own`.
    """
    if name in FAMILIES:
        return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    folder = name
    if not Path(name).is_dir():
        _check_hub_name(name)
    from huggingface_hub import snapshot_download
    from transformers import AutoTokenizer

    try:
        if not Path(name).is_dir():
            way: Any = {"endpoint": models.hub_address(), "token": settings.secret("HF_TOKEN")}
            folder = snapshot_download(name, allow_patterns=TOKENIZER, ignore_patterns="*/*", **way)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # a damaged file fails in whatever way its reader does
        raise CourseError(
            f"The tokenizer of {Path(name).name} could not be loaded.",
            (str(error).strip() or type(error).__name__).splitlines()[0],
            f"Check the name; a gated model needs HF_TOKEN. Or use {', '.join(FAMILIES)}.",
        ) from None
    return own(tokenizer)


def own(tokenizer: Any) -> str:
    """The chat template that a tokenizer brings; the ordinary one where it brings several.

    Raises:
        CourseError: it has none, so its model is no chat model; or the template does not end.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):  # by name; the ordinary one is called so, or stands first
        template = template.get("default") or next(iter(template.values()), None)
    if not template:
        raise CourseError(
            "This model has no chat template.",
            "It is a base model: it continues text and was never taught to answer.",
            "Name a chat model (the names often end in -chat or -Instruct), or "
            f"{models.BACK_TO_POCKET}.",
        )
    _try_out(template)
    return template


@cache
def _try_out(template: str) -> None:
    """Raise `CourseError` where a template takes too long, or too much memory, for a short chat."""
    what, next_step = "This chat template does not come to an end.", "Use another model's template."
    # `{% generation %}` is known to transformers alone, and renders nothing
    plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)
    try:
        tried = subprocess.run(
            [sys.executable, "-c", TRIAL],
            input=plain,
            text=True,
            encoding="utf-8",
            capture_output=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        why = f"A chat of four messages was not written after {SECONDS} seconds."
        raise CourseError(what, why, next_step) from None
    if tried.returncode == FULL or tried.returncode < 0:  # below 0: killed by the system
        why = "A chat of four messages took more than 1 GiB of memory."
        raise CourseError(what, why, next_step)


def _check_hub_name(name: str) -> None:
    """Raise `CourseError` unless `name` is a hub id and there is a way to fetch it."""
    what, use = f"No chat template {name!r}.", f"use one of {', '.join(FAMILIES)}."
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        why = "It is neither a family of the course, nor a folder here, nor a hub id."
        raise CourseError(what, why, f"Write owner/name, or {use}")
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "tokenizer_config.json"), str):
        return
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        why = "It is not on this machine, and HF_HUB_OFFLINE is set, as always in the pocket tier."
        raise CourseError(what, why, f"Unset HF_HUB_OFFLINE and restart the kernel, or {use}")
    if not machine.reachable(models.hub_address()):
        why = "It is not on this machine, and the hub (or what HF_ENDPOINT names) does not answer."
        raise CourseError(what, why, f"Connect and run the cell again, or {use}")


def render(
    tokenizer: Any,
    messages: Messages,
    template: str | None = None,
    add_generation_prompt: bool = True,
) -> str:
    """The prompt as text: `apply_chat_template` without turning it into token ids.

    Raises:
        CourseError: the messages are no chat, or the template stops at them.
    """
    check_chat(messages)
    try:
        return tokenizer.apply_chat_template(
            messages,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
    except Exception as error:  # a template is a program: it may stop in any way
        raise CourseError(
            "The template refuses these messages.",
            str(error) or type(error).__name__,
            "Change the messages as it says, or use another template.",
        ) from None


def pieces(
    tokenizer: Any,
    messages: Messages,
    template: str | None = None,
    add_generation_prompt: bool = True,
) -> list[tuple[str, str]]:
    """Each token of the rendered prompt with its owner.

    Args:
        tokenizer: a fast tokenizer of transformers.
        messages: the chat.
        template: a chat template; the tokenizer's own by default.
        add_generation_prompt: as for `apply_chat_template`.

    Returns:
        (token text, owner) pairs; the owner is `special` for special tokens, the role for what
        stands in a message, and `format` for what the template put around it.

    Raises:
        CourseError: see `render`.
    """
    text = render(tokenizer, messages, template, add_generation_prompt)
    owner = _owners(tokenizer, text, messages, template, add_generation_prompt)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    special, found, reached = set(tokenizer.all_special_ids), [], 0
    for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        whose = owner[max(start, end - 1)] if start < len(text) else "format"
        # The second and later bytes of one character share its place in the text. Some tokenizers
        # leave a token's space out of its place: it is shown all the same.
        shown = text[reached:end] if end > reached else tokenizer.convert_ids_to_tokens(token)
        found.append((shown, "special" if token in special else whose))
        reached = max(reached, end)
    return found


def segments(
    tokenizer: Any,
    messages: Messages,
    template: str | None = None,
    add_generation_prompt: bool = True,
) -> list[tuple[str, str]]:
    """As `pieces`, but whole runs of text in place of tokens, and without `special`.

    For a template whose special tokens this tokenizer does not know.
    """
    text = render(tokenizer, messages, template, add_generation_prompt)
    owner = _owners(tokenizer, text, messages, template, add_generation_prompt)
    runs = groupby(zip(text, owner, strict=True), key=itemgetter(1))
    return [("".join(character for character, _ in run), whose) for whose, run in runs]


def unknown_marks(tokenizer: Any, runs: list[tuple[str, str]]) -> list[str]:
    """The marks in a prompt's format, like `<|im_start|>`, that are no tokens of this tokenizer.

    It cuts them to pieces: it was made for another format, and to count its tokens says nothing.

    Args:
        tokenizer: any tokenizer of transformers.
        runs: as from `segments`.
    """
    written = [mark for text, whose in runs if whose == "format" for mark in MARK.findall(text)]
    return [mark for mark in dict.fromkeys(written) if len(tokenizer.tokenize(mark)) != 1]


def _owners(
    tokenizer: Any,
    text: str,
    messages: Messages,
    template: str | None,
    add_generation_prompt: bool,
) -> list[str]:
    """The owner of each character of `text`: a role, or `format`.

    The template is rendered once more with a stand-in character for each content; what is between
    the stand-ins is format.
    """
    stands = {chr(0xE000 + i): message for i, message in enumerate(messages)}
    chat = [{**message, "content": mark} for mark, message in stands.items()]
    shape = render(tokenizer, chat, template, add_generation_prompt)
    owner, position = ["format"] * len(text), 0
    for segment in re.split("([\ue000-\uf8ff])", shape):
        message = stands.get(segment)
        piece = message["content"].strip() if message else segment
        at = text.find(piece, position)
        if at < 0:
            continue
        position = at + len(piece)
        if message:
            owner[at:position] = [message["role"]] * len(piece)
    return owner
