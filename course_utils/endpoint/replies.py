"""One reply in the making: which token comes next, what the text is, when it ends.

The engine computes logits for many replies at once and hands each its own row; nothing here knows
of the others, so that a reply cannot depend on them.
"""

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

from course_utils.endpoint.refusals import Json
from course_utils.endpoint.wishes import Wish

BROKEN = "\ufffd"  # what a decoder makes of a character whose last bytes are still to come
# A JSON object (RFC 8259) as one recursive pattern, with at most 20 spaces in a row, or a model
# could fill its reply with them. `regex` can say whether a text may still become one.
JSON_OBJECT = r"""(?(DEFINE)
(?<w>[ \t\r\n]{0,20})
(?<s>"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*")
(?<n>-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)
(?<o>\{(?&w)(?:(?&s)(?&w):(?&v)(?:,(?&w)(?&s)(?&w):(?&v))*)?\})
(?<a>\[(?:(?&w)|(?&v)(?:,(?&v))*)\])
(?<v>(?&w)(?:(?&s)|(?&n)|(?&o)|(?&a)|true|false|null)(?&w))
)(?&w)(?&o)(?&w)"""


@cache
def json_object() -> Any:
    """The pattern of a JSON object, compiled."""
    import regex  # comes with transformers

    return regex.compile(JSON_OBJECT.replace("\n", ""), regex.ASCII)


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
        tokens: the reply's token ids, without the one that ends it.
        made: how many tokens were made, with that one.
        finish: None while it grows; then `stop` or `length`.
        index: which of a request's replies it is.
        tell: called for each event, in the engine's thread: the reply, and an error or None.
        cancelled: set where nobody waits for it any more.
    """

    def __init__(
        self, prompt: list[int], wish: Wish, words: Words, index: int, tell: Callable[..., None]
    ) -> None:
        """Start with nothing said."""
        import torch

        self.prompt, self.wish, self.words, self.index, self.tell = prompt, wish, words, index, tell
        self.tokens: list[int] = []
        self.made, self.shown, self.text = 0, 0, ""
        self.logprobs: list[Json] = []
        self.finish: str | None = None
        self.cancelled = False
        self.chance = torch.Generator()
        if wish.seed is None:
            self.chance.seed()
        else:
            self.chance.manual_seed((wish.seed + index) % 2**63)
        adjusted = wish.bias or wish.presence or wish.frequency
        # the engine finds the largest logit of such replies for all of them at once
        self.plain = not (wish.temperature or adjusted or wish.json)
        self.reads = bool(wish.stream or wish.stop or wish.json)

    def room(self) -> int:
        """How many tokens prompt and reply may have together."""
        return len(self.prompt) + self.wish.most

    def pick(self, logits: Any) -> int:
        """The next token, drawn as the wish says from logits of shape (vocabulary,)."""
        import torch

        logits = logits.clone()
        if self.wish.bias:
            ids = torch.tensor(list(self.wish.bias))
            logits[ids] += torch.tensor(list(self.wish.bias.values()))
        if self.tokens and (self.wish.presence or self.wish.frequency):
            said = Counter(self.tokens)
            times = torch.tensor(list(said.values()), dtype=torch.float32)
            logits[torch.tensor(list(said))] -= self.wish.presence + self.wish.frequency * times
        while not (self.wish.json and logits.max() == -torch.inf):
            token = self.draw(logits)
            if not self.wish.json or self.stays_json(token):
                return token
            logits[token] = -torch.inf
        return min(self.words.ends)  # nothing at all may follow

    def draw(self, logits: Any) -> int:
        """One token from logits, greedy or by chance."""
        import torch

        if self.wish.temperature < 1e-4 or self.wish.top_p == 0:
            return int(logits.argmax())
        if self.wish.top_k:
            least = logits.topk(min(self.wish.top_k, len(logits))).values[-1]
            logits = logits.masked_fill(logits < least, -torch.inf)
        chances = torch.softmax(logits / self.wish.temperature, -1)
        if self.wish.top_p < 1:
            ranked, order = chances.sort(descending=True)
            beyond = ranked.cumsum(-1) - ranked >= self.wish.top_p
            chances = torch.zeros_like(chances).scatter(0, order, ranked.masked_fill(beyond, 0))
        return int(torch.multinomial(chances, 1, generator=self.chance))

    def stays_json(self, token: int) -> bool:
        """Whether the reply with this token is a JSON object or may still become one."""
        if token in self.words.ends:
            return json_object().fullmatch(self.words.text(self.tokens)) is not None
        said = self.words.text([*self.tokens, token])
        if said == self.words.text(self.tokens):
            return False  # a special token: it says nothing, and could go on for ever
        return json_object().fullmatch(said, partial=True) is not None

    def add(self, token: int, logits: Any) -> None:
        """Take the next token, and see whether the reply ends here."""
        self.made += 1
        if token in self.words.ends:
            self.finish = "stop"
        else:
            self.tokens.append(token)
            if self.wish.logprobs is not None:
                self.logprobs.append(self.measured(token, logits))
            if len(self.tokens) >= self.wish.most:
                self.finish = "length"
        if self.reads or self.finish:
            self.text = self.words.text(self.tokens)
            self.cut()

    def cut(self) -> None:
        """End the text before the first stop text that is in it."""
        found = [at for stop in self.wish.stop if (at := self.text.find(stop)) >= 0]
        if found:
            self.text, self.finish = self.text[: min(found)], "stop"
            while self.logprobs and sum(len(x["token"]) for x in self.logprobs[:-1]) >= len(
                self.text
            ):
                self.logprobs.pop()

    def new_text(self) -> str:
        """What became certain since the last call: no half character, no stop text's beginning."""
        end = len(self.text)
        if not self.finish:
            if self.text.endswith(BROKEN):
                end = len(self.text.rstrip(BROKEN))
            for stop in self.wish.stop:
                for n in range(1, len(stop)):
                    if self.text.endswith(stop[:n]):
                        end = min(end, len(self.text) - n)
        piece = self.text[self.shown : end]
        self.shown = max(self.shown, end)
        return piece

    def measured(self, token: int, logits: Any) -> Json:
        """A token's log probability, and its likeliest rivals', as OpenAI's API reports them."""
        logs = logits.log_softmax(-1)
        best = logs.topk(self.wish.logprobs).indices.tolist() if self.wish.logprobs else []
        told = {"top_logprobs": [self.one_logprob(rival, logs) for rival in best]}
        return self.one_logprob(token, logs) | told

    def one_logprob(self, token: int, logs: Any) -> Json:
        """One token with its log probability and, where they are a text's, its bytes."""
        said = self.words.piece(token)
        raw = None if BROKEN in said else list(said.encode())
        return {"token": said, "logprob": max(float(logs[token]), -9999.0), "bytes": raw}
