"""From chat messages to a prompt's token ids, or to the reason why that cannot be.

The model's own tokenizer renders them with its own chat template. It knows neither HTTP nor the
model's weights.
"""

from typing import Any

from course_utils.endpoint.refusals import Json, Refusal

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# what the openai client writes into a reply's message, and learners send back: null or empty
EMPTY = {"name", "refusal", "annotations", "audio", "function_call", "tool_calls", "reasoning"}


class Prompts:
    """The prompts of one model: its template, its tokens, the longest it takes."""

    def __init__(self, tokenizer: Any, context: int) -> None:
        """Keep the tokenizer and the context's length in tokens."""
        self.tokenizer, self.context = tokenizer, context
        self.longest_token = max(map(len, tokenizer.get_vocab()))

    def ids(self, messages: Any) -> list[int]:
        """The token ids of a prompt that asks for the next reply.

        Raises:
            Refusal: these are no messages, the template does not take them, or they are too long.
        """
        chat = [flat(message, f"messages[{i}]") for i, message in enumerate(listed(messages))]
        # no text can have fewer tokens than this: what is far too long is not counted at all
        least = sum(len(message["content"]) for message in chat) // self.longest_token
        if least >= self.context:
            raise self.too_long(f"at least {least}")
        try:
            ids = self.tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, return_dict=True
            )["input_ids"]
        except Exception as error:  # a template is a program: it may stop with anything
            reason = str(error) or type(error).__name__
            raise refused(f"The model's chat template does not take this: {reason}") from None
        if len(ids) >= self.context:
            raise self.too_long(str(len(ids)))
        return list(ids)

    def too_long(self, tokens: str) -> Refusal:
        """The refusal of a prompt that leaves no room for a reply."""
        message = f"This model's maximum context length is {self.context} tokens, and "
        message += f"your messages have {tokens}. Shorten them."
        return Refusal(400, "context_length_exceeded", message, "messages")


def refused(reason: str, param: str = "messages") -> Refusal:
    """A 400 about the messages."""
    return Refusal(400, "invalid_messages", reason, param)


def listed(messages: Any) -> list[Any]:
    """The messages, where they are a list with something in it."""
    if not isinstance(messages, list):
        raise refused("`messages` must be a list of objects with a role and a content.")
    if not messages:
        raise refused("`messages` is empty: a chat needs at least one user message.")
    return messages


def flat(message: Any, where: str) -> Json:
    """One message as the template takes it: a role and a text."""
    if not isinstance(message, dict):
        raise refused(f"`{where}` must be an object with a role and a content.", where)
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        shown = "is missing" if role is None else f"is {role!a:.40}"
        known = ", ".join(ROLES)
        raise refused(f"`{where}.role` {shown}; here it can be: {known}.", f"{where}.role")
    for name, value in message.items():
        if name not in ("role", "content") and (name not in EMPTY or value):
            shown = f"{name!a:.40}"
            raise refused(f"`{where}` has {shown}, which this server cannot use.", where)
    content = text_of(message.get("content"), f"{where}.content")
    return {"role": ROLES[role], "content": content}


def text_of(content: Any, where: str) -> str:
    """A message's content as text: a string, or a list of parts that are all text."""
    if isinstance(content, list) and content:
        return " ".join(text_of_part(part, f"{where}[{i}]") for i, part in enumerate(content))
    if not isinstance(content, str):
        raise refused(f"`{where}` must be text, or a list of parts of type text.", where)
    try:
        content.encode("utf-8")
    except UnicodeEncodeError:
        reason = f"`{where}` holds half of a character (a lone surrogate): it was cut in two."
        raise refused(reason, where) from None
    return content


def text_of_part(part: Any, where: str) -> str:
    """One part of a content, where it is text."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        for name, value in part.items():
            if name not in ("type", "text") and value is not None:
                shown = f"{name!a:.40}"
                raise refused(f"`{where}` has {shown}, which this server cannot use.", where)
        return text_of(part["text"], f"{where}.text")
    if isinstance(kind, str) and kind != "text":
        raise refused(f"`{where}` is of type {kind!a:.40}; this model reads text only.", where)
    raise refused(f'`{where}` must be {{"type": "text", "text": "..."}}.', where)
