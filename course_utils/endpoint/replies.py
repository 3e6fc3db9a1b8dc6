"""One reply in the making: which token comes next, what the text is, when it ends.

The engine computes logits for many replies at once and hands each its own row; nothing here knows
of the others, so that a reply cannot depend on them.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

from course_utils.endpoint.bounds import allowed, check
from course_utils.endpoint.refusals import Json
from course_utils.endpoint.wishes import Wish

BROKEN = "\ufffd"  # what a decoder makes of a character whose last bytes are still to come


class Words:
    """Tokens as text: a tokenizer's decoder, and the ids that end a reply."""

    def __init__(self, tokenizer: Any, ends: set[int]) -> None:
        """Keep the tokenizer and the ids."""
        self.tokenizer, self.ends = tokenizer, ends
        self.before = tokenizer.encode("a", add_special_tokens=False)[:1]
        self.skipped = len(self.text(self.before))

    def text(self, ids: list[int]) -> str:
        """The text of these tokens."""
        return self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def piece(self, token: int) -> str:
        """One token's text; behind another one, since some decoders drop a first space."""
        said = self.tokenizer.decode([*self.before, token], clean_up_tokenization_spaces=False)
        return said[self.skipped :]


class Reply:
    """One reply: the tokens so far and the text that is certain.

    Attributes:
        prompt: the prompt's token ids.
        index: which of a request's replies it is.
        tell: called for each event, in the engine's thread: the reply, and an error or None.
        matcher: what it must fit; None for any text.
        tokens: the reply's token ids, without the one that ends it.
        lengths: where the text is read at each step: how long it was after each token.
        made: how many tokens were made, with that one.
        finish: None while it grows; then `stop` or `length`.
        cancelled: set where nobody waits for it any more.
    """

    def __init__(
        self,
        prompt: list[int],
        wish: Wish,
        words: Words,
        index: int,
        tell: Callable[..., None],
        matcher: Any = None,
    ) -> None:
        """Start with nothing said."""
        import torch

        self.prompt, self.wish, self.words, self.index, self.tell = prompt, wish, words, index, tell
        self.tokens: list[int] = []
        self.made, self.shown, self.text = 0, 0, ""
        self.logprobs: list[Json] = []
        self.lengths: list[int] = []
        self.finish: str | None = None
        self.cancelled, self.matcher = False, matcher
        self.chance = torch.Generator()
        if wish.seed is None:
            self.chance.seed()
        else:
            self.chance.manual_seed((wish.seed + index) % 2**63)
        self.penalties = wish.presence_penalty or 0.0, wish.frequency_penalty or 0.0
        # the engine finds the largest logit of such replies for all of them at once
        self.plain = not (wish.temperature or wish.logit_bias or any(self.penalties) or matcher)
        self.reads = bool(wish.stream or wish.stop)

    def room(self) -> int:
        """How many tokens prompt and reply may have together."""
        return len(self.prompt) + self.wish.most

    def pick(self, logits: Any) -> int:
        """The next token, drawn as the wish says from logits of shape (vocabulary,).

        Raises:
            Refusal: nothing may follow.
        """
        import torch

        logits = logits.clone()
        for name, gain in (self.wish.logit_bias or {}).items():
            logits[int(name)] += gain
        if self.tokens and any(self.penalties):
            said = Counter(self.tokens)
            times = torch.tensor(list(said.values()), dtype=torch.float32)
            logits[torch.tensor(list(said))] -= self.penalties[0] + self.penalties[1] * times
        if self.matcher:
            logits[~allowed(self.matcher, len(logits))] = -torch.inf
        token = self.draw(logits)
        if self.matcher:
            self.matcher.consume_token(token)
            check(self.matcher)  # or what broke off would count as ended
        return token

    def draw(self, logits: Any) -> int:
        """One token from logits, greedy or by chance."""
        import torch
        from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        wish, scores = self.wish, logits[None]
        if wish.temperature < 1e-4 or wish.top_p == 0:
            return int(logits.argmax())
        scores = TemperatureLogitsWarper(float(wish.temperature))(None, scores)
        if wish.top_k:
            scores = TopKLogitsWarper(wish.top_k)(None, scores)
        if wish.top_p < 1:
            scores = TopPLogitsWarper(wish.top_p)(None, scores)
        return int(torch.multinomial(scores[0].softmax(-1), 1, generator=self.chance))

    def add(self, token: int, logits: Any) -> None:
        """Take the next token, and see whether the reply ends here."""
        self.made += 1
        if token in self.words.ends:
            self.finish = "stop"
        else:
            self.tokens.append(token)
            if self.wish.logprobs:
                self.logprobs.append(self.measured(token, logits))
            if self.matcher and self.matcher.is_stopped():
                self.finish = "stop"
            elif len(self.tokens) >= self.wish.most:
                self.finish = "length"
        if self.reads or self.finish:
            self.text = self.words.text(self.tokens)
            self.lengths += [len(self.text)] * (len(self.tokens) - len(self.lengths))
            self.cut()

    def cut(self) -> None:
        """End the text before the first stop text that is in it."""
        found = [at for stop in self.wish.stop if (at := self.text.find(stop)) >= 0]
        if found:
            self.text, self.finish = self.text[: min(found)], "stop"
            del self.logprobs[self.tokens_in(len(self.text)) :]

    def tokens_in(self, length: int) -> int:
        """How many tokens the first `length` characters of the text are made of."""
        return 1 + sum(end < length for end in self.lengths) if length else 0

    def measured_so_far(self) -> int:
        """How many log probabilities are certain: those of the text that `new_text` told."""
        certain = self.finish or not self.wish.stop
        return len(self.logprobs) if certain else self.tokens_in(self.shown)

    def new_text(self) -> str:
        """What became certain since the last call: no half character, no stop text's beginning."""
        text = self.text if self.finish else self.text.rstrip(BROKEN)
        end = len(text)
        if not self.finish:
            for stop in self.wish.stop:
                for n in range(1, len(stop)):
                    if text.endswith(stop[:n]):
                        end = min(end, len(text) - n)
        piece = self.text[self.shown : end]
        self.shown = max(self.shown, end)
        return piece

    def measured(self, token: int, logits: Any) -> Json:
        """A token's log probability, and its likeliest rivals', as OpenAI's API reports them."""
        logs = logits.log_softmax(-1)
        best = logs.topk(min(self.wish.top_logprobs or 0, len(logs))).indices.tolist()
        told = {"top_logprobs": [self.one_logprob(rival, logs) for rival in best]}
        return self.one_logprob(token, logs) | told

    def one_logprob(self, token: int, logs: Any) -> Json:
        """One token with its log probability and, where they are a text's, its bytes."""
        said = self.words.piece(token)
        raw = None if BROKEN in said else list(said.encode())
        return {"token": said, "logprob": max(float(logs[token]), -9999.0), "bytes": raw}
