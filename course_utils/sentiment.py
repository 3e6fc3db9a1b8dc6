"""review → messages → prompt → reply → label → score: the course's one line of data.

The same names serve the API and the local model: whatever answers `complete(messages) -> str`
is scored by the same `evaluate`. This module knows neither servers nor notebooks.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from course_utils.errors import CourseError
from course_utils.replies import UNPARSED, parser
from course_utils.settings import static, tier

Messages = list[dict[str, str]]
Complete = Callable[[Messages], str]
CompleteBatch = Callable[[list[Messages]], list[str]]

LABELS = ("Positive", "Negative", "Neutral")
# What the article asks, and Pocket Llama was trained on; a general model chats back at it.
SYSTEM = "You are a helpful assistant that analyzes sentiment."
# What a general model answers with one word: of some 20 wordings tried on SmolLM2 one after which
# every reply could be read (96 of 96; it said "Positive" to all of them: 0.32 right).
GENERAL = "Classify the sentiment of this review as Positive, Negative or Neutral."


def messages(review: str, system: str | None = SYSTEM) -> Messages:
    """The chat messages that ask for one review's sentiment.

    With the system message left as it is, a model other than Pocket Llama is also asked what to do,
    with `GENERAL` around the review.

    Raises:
        CourseError: the review is no text, like an empty cell of a table or raw bytes.
    """
    if not isinstance(review, str):
        raise CourseError(
            f"A review has to be text; this is {type(review).__name__}.",
            "In a table, an empty cell or a number is read as something else.",
            "Leave that row out, or turn it into text with str(...).",
        )
    try:
        review.encode()
    except UnicodeEncodeError:
        raise CourseError(
            "The review is no readable text.",
            "It holds half a character, so it was read with another encoding than it was saved.",
            'Read the file again with encoding="utf-8", errors="replace".',
        ) from None
    if system == SYSTEM and tier() != "pocket":
        review = f"{GENERAL}\n\nReview: {review}\nSentiment:"
    asked = [{"role": "user", "content": review}]
    return [{"role": "system", "content": system}, *asked] if system else asked


def parse_label(reply: Any) -> str:
    """The one of `LABELS` that a reply states, or `UNPARSED`: see `replies`.

    >>> parse_label("The sentiment is positive.")
    'Positive'
    >>> parse_label("This isn't positive.")
    'unparsed'
    """
    return parser(LABELS)(reply)


def interval(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a share of `right` in `total` (E. B. Wilson, 1927).

    Written out, since importing scipy.stats for these five lines takes more than a second.
    """
    if total == 0:
        return 0.0, 1.0
    z, share = 1.96, right / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    spread = math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    half = z * spread / (1 + z * z / total)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass
class Score:
    """What a model made of labelled reviews.

    `rows` holds (review, true label, given label, reply); a given label may be `UNPARSED`.
    """

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    @property
    def total(self) -> int:
        """How many reviews were scored."""
        return len(self.rows)

    @property
    def right(self) -> int:
        """How many got their true label."""
        return sum(true == given for _, true, given, _ in self.rows)

    @property
    def accuracy(self) -> float:
        """The share that got their true label; unparsed replies count as wrong."""
        return self.right / self.total if self.rows else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy."""
        return interval(self.right, self.total)

    @property
    def unparsed(self) -> list[str]:
        """The replies that held no single label."""
        return [reply for _, _, given, reply in self.rows if given == UNPARSED]

    @property
    def mistakes(self) -> list[tuple[str, str, str]]:
        """(review, true label, given label) of everything that went wrong."""
        return [(review, true, given) for review, true, given, _ in self.rows if true != given]

    @property
    def confusion(self) -> dict[tuple[str, str], int]:
        """Counts by (true label, given label)."""
        return dict(Counter((true, given) for _, true, given, _ in self.rows))

    def __repr__(self) -> str:
        """One line: accuracy, interval, counts."""
        low, high = self.interval
        text = f"accuracy {self.accuracy:.2f} ({self.right} of {self.total}; "
        text += f"95 % interval {low:.2f} to {high:.2f})"
        return text + (f", {len(self.unparsed)} unparsed" if self.unparsed else "")


def evaluate(
    complete: Complete,
    examples: Iterable[tuple[str, str]],
    progress: bool = True,
    system: str | None = SYSTEM,
    minutes: float | None = None,
) -> Score:
    """Ask `complete` about every (review, label) and keep score; `minutes` as below."""

    def one_by_one(chats: list[Messages]) -> list[str]:
        return [complete(chat) for chat in chats]

    def ask(review: str) -> Messages:
        return messages(review, system)

    return evaluate_batch(one_by_one, examples, 1, progress, ask, minutes=minutes)


def evaluate_batch(
    complete: CompleteBatch,
    examples: Iterable[tuple[str, str]],
    size: int = 32,
    progress: bool = True,
    ask: Callable[[str], Messages] = messages,
    parse: Callable[[str], str] = parse_label,
    minutes: float | None = None,
) -> Score:
    """`evaluate`, `size` reviews at a time: several times faster, same score.

    Args:
        complete: chats → replies, as from `local_batch`.
        examples: (review, label) pairs.
        size: reviews in a batch.
        progress: whether to show a bar.
        ask: review → messages.
        parse: reply → label or `UNPARSED`.
        minutes: stop before the batch that would run over them, and print how many reviews fitted;
            one batch is always scored. The first reviews count, so bring them mixed.
    """
    from tqdm.auto import tqdm

    pairs, score = list(examples), Score()
    quiet, started = static() or not progress, time.monotonic()
    with tqdm(total=len(pairs), unit="review", disable=quiet, leave=False) as bar:
        for start in range(0, len(pairs), size):
            each = (time.monotonic() - started) / max(1, start)
            if minutes is not None and start and each * (start + size) > 60 * minutes:
                print(f"{start} of {len(pairs)} reviews: as many as fit into {minutes:g} minutes")
                break
            some = pairs[start : start + size]
            replies = complete([ask(review) for review, _ in some])
            for (review, true), reply in zip(some, replies, strict=True):
                text = reply if isinstance(reply, str) else ""  # some servers send null
                score.rows.append((review, true, parse(text), text))
            bar.update(len(some))
    return score


def check_chat(chat: Any) -> None:
    """Raise `CourseError` unless `chat` is a list of messages, each with a role and a text."""
    example = '[{"role": "user", "content": "I love it"}]'
    if isinstance(chat, str):
        raise CourseError(
            f"A chat is a list of messages, and this is a text: {chat[:60]!r}.",
            "A chat model is told who says what: each text comes with a role.",
            f"Pass {example}, or what messages(review) makes of a review.",
        )
    if not isinstance(chat, list | tuple) or not chat:
        raise CourseError(
            f"A chat is a list with at least one message, not {repr(chat)[:60]}.",
            "",
            f"Pass a list like {example}.",
        )
    for message in chat:
        role, content = (
            (message.get("role"), message.get("content")) if isinstance(message, dict) else (0, 0)
        )
        if not isinstance(role, str) or not isinstance(content, str):
            raise CourseError(
                f"A message has no text: {repr(message)[:80]}",
                "A message is a dictionary with a role and a content, and both are plain text.",
                f"Write each message as in {example}.",
            )


def check_room(model: Any, tokens: int, room: int) -> None:
    """Raise `CourseError` unless `tokens` and an answer of `room` tokens fit the context."""
    context = getattr(model.config, "max_position_embeddings", None)
    if context and tokens + room > context:
        raise CourseError(
            f"The text is too long: {tokens:,} tokens with what goes around it.",
            f"This model reads {context:,} tokens at a time, the answer included.",
            "Shorten the text.",
        )


def local_complete(model: Any, tokenizer: Any, **generate: Any) -> Complete:
    """`complete` for a model in this process: template, generate, decode the new tokens only.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer, with a chat template.
        **generate: settings for `model.generate`; greedy and 20 new tokens by default.

    Raises:
        CourseError: (when called) these are no messages, or they do not fit into the context.
    """
    batch = local_batch(model, tokenizer, **generate)
    return lambda messages: batch([messages])[0]


def local_batch(model: Any, tokenizer: Any, **generate: Any) -> CompleteBatch:
    """`local_complete` for many chats at once: shorter prompts are filled up on the left."""
    import torch

    settings = {"do_sample": False, "max_new_tokens": 20, **generate}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def complete(chats: list[Messages]) -> list[str]:
        for chat in chats:
            check_chat(chat)
        rows = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)
        longest = max(map(len, rows["input_ids"]))
        check_room(model, longest, settings["max_new_tokens"])
        fill = [longest - len(ids) for ids in rows["input_ids"]]
        ids = [[pad] * n + row for n, row in zip(fill, rows["input_ids"], strict=True)]
        mask = [[0] * n + [1] * (longest - n) for n in fill]
        with torch.inference_mode():
            output = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                pad_token_id=pad,
                **settings,
            )
        replies = tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)
        return [reply.strip() for reply in replies]

    return complete


def label_probabilities(model: Any, tokenizer: Any, messages: Messages) -> dict[str, float]:
    """How probable each label is as the reply's first word, and "other" for all else; sums to 1.

    A label counts with and without a capital and a leading space. One that is several tokens has
    the product of their probabilities, each given the ones before it.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer, with a chat template.
        messages: what the reply would answer.
    """
    import torch

    check_chat(messages)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    check_room(model, len(prompt["input_ids"]), 8)  # 8: room for a label in any tokenizer
    spellings: dict[tuple[int, ...], str] = {}
    for label in LABELS:
        for word in (label, f" {label}", label.lower(), f" {label.lower()}"):
            spellings[tuple(tokenizer.encode(word, add_special_tokens=False))] = label
    longest = max(map(len, spellings))
    # The filler stands after the word, where a causal model cannot see it yet.
    rows = [[*prompt["input_ids"], *ids, *[0] * (longest - len(ids))] for ids in spellings]
    with torch.inference_mode():
        inputs = torch.tensor(rows, device=model.device)
        logits = model(input_ids=inputs, logits_to_keep=longest + 1).logits
    found = dict.fromkeys(LABELS, 0.0)
    for log, (ids, label) in zip(logits.float().log_softmax(-1), spellings.items(), strict=True):
        found[label] += math.exp(sum(log[i, token].item() for i, token in enumerate(ids)))
    return {**found, "other": max(0.0, 1 - sum(found.values()))}


def api_complete(client: Any, model: str, **settings: Any) -> Complete:
    """`complete` for an OpenAI-compatible API; temperature 0 by default."""
    settings = {"temperature": 0, **settings}

    def complete(messages: Messages) -> str:
        reply = client.chat.completions.create(model=model, messages=messages, **settings)
        return (reply.choices[0].message.content or "").strip()

    return complete
