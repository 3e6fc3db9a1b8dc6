"""Llama 2's chat format as Meta's reference code lays it out: text, token ids, what it refuses.

Source: meta-llama/llama, llama/generation.py, `Llama.chat_completion` (read 2026-11-23). It is
written out here a second time, apart from the chat template in `pocket_training/`, so that one
can be held against the other. This module knows no model.
"""

from typing import Any

from course_utils import models
from course_utils.errors import CourseError
from course_utils.sentiment import Messages, check_chat

BOS, EOS = "<s>", "</s>"
TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")
B_INST, E_INST = "[INST]", "[/INST]"
B_SYS, E_SYS = "<<SYS>>\n", "\n<</SYS>>\n\n"
ROLES = "An optional system message, then user, assistant, user, ... and a user message last."
PROBE: Messages = [
    {"role": "system", "content": " a "},
    {"role": "user", "content": " b "},
    {"role": "assistant", "content": " c "},
    {"role": "user", "content": " d "},
]


def check(messages: Messages) -> None:
    """Raise `CourseError` where Meta's code refuses to answer.

    It refuses a tag inside a message, roles that do not alternate, and a last message that is not
    the user's. (Meta's code answers a message with a tag with an error text; here it is raised.)
    """
    check_chat(messages)
    for message in messages:
        for tag in TAGS:
            if tag in message["content"]:
                raise CourseError(
                    f"A {message['role']} message contains {tag}.",
                    "Llama 2 marks turns with this tag, so the text could pass for a turn.",
                    "Refuse the text, or take the tag out of it before it goes into a prompt.",
                )
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    wanted = [("user", "assistant")[i % 2] for i in range(len(turns))]
    if not turns or turns != wanted or turns[-1] != "user":
        raise CourseError(
            f"Llama 2 cannot answer messages with the roles {', '.join(roles) or 'none'}.",
            ROLES,
            "Put the messages in that order; join two user messages that follow each other.",
        )


def turns(messages: Messages) -> list[str]:
    """The text of each turn without BOS and EOS; the last one is open, for the model to answer.

    A turn is one user message with its answer. The system message stands inside the first one.

    Raises:
        CourseError: see `check`.
    """
    check(messages)
    if messages[0]["role"] == "system":
        system, first, *rest = (message["content"] for message in messages)
        contents = [B_SYS + system + E_SYS + first, *rest]
    else:
        contents = [message["content"] for message in messages]
    users, answers = contents[::2], contents[1::2]
    closed = [
        f"{B_INST} {user.strip()} {E_INST} {answer.strip()} "
        for user, answer in zip(users, answers, strict=False)
    ]
    return [*closed, f"{B_INST} {users[-1].strip()} {E_INST}"]


def text(messages: Messages) -> str:
    """The prompt as text, with BOS and EOS written out: what `apply_chat_template` renders.

    Meta's code never builds this text: there BOS and EOS are ids only (see `ids`).

    >>> text([{"role": "user", "content": "Hi"}])
    '<s>[INST] Hi [/INST]'
    """
    *closed, last = turns(messages)
    return "".join(BOS + turn + EOS for turn in closed) + BOS + last


def ids(messages: Messages, tokenizer: Any) -> list[int]:
    """The prompt as token ids: each turn encoded by itself, BOS before it, EOS after its answer.

    Nothing that stands in a message can become a special token: `</s>` in a review stays text,
    as in Meta's code.

    Raises:
        CourseError: see `check`; also where the tokenizer has no BOS or no EOS.
    """
    if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise CourseError(
            "This tokenizer cannot write Llama 2's format.",
            "It has no beginning-of-sequence or no end-of-sequence token.",
            f"Use a Llama 2 tokenizer, or {models.BACK_TO_POCKET}.",
        )
    bos, eos = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
    *closed, last = (
        tokenizer(turn, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        for turn in turns(messages)
    )
    return sum([bos + turn + eos for turn in closed], []) + bos + last


def is_spoken_by(tokenizer: Any) -> bool:
    """Whether the tokenizer's own chat template renders Llama 2's format."""
    try:
        rendered = tokenizer.apply_chat_template(PROBE, tokenize=False, add_generation_prompt=True)
    except Exception:
        # a template may refuse the probe in any way it likes; then it is not Llama 2's
        return False
    return rendered == text(PROBE)
