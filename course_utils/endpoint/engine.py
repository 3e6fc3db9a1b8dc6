"""Many replies computed in one batch, in a thread of its own.

Whoever is waiting is taken in before the next token is computed for all (continuous batching, as
vLLM and `transformers serve --continuous-batching` do it), so nobody waits for another's reply to
end, and nobody waits for a batch to fill. A reply does not depend on its neighbours: shorter
prompts are filled up on the left, the filler is masked, and positions count real tokens only.
What the beginnings of prompts that arrive together share is computed once.

It knows neither HTTP nor text.
"""

import os
import threading
import traceback
from collections import deque
from typing import Any

from course_utils.endpoint.refusals import Refusal
from course_utils.endpoint.replies import Reply

MOST_ROWS = 64
READ_TOKENS = 2048  # of prompts at a time: more at once is no faster
SHARED = 8  # a common beginning of fewer tokens is not worth a pass of its own
CACHE_BYTES = 512 * 2**20


class Engine:
    """A model of transformers, the replies it is making, and those that wait.

    Attributes:
        rows: the replies in the making.
        cache: their keys and values, one row each.
        mask: shape (rows, tokens), 1 for a token and 0 for filler.
        room: how many tokens the cache may hold, filler included.
    """

    def __init__(self, model: Any) -> None:
        """Measure what one token takes in the cache, which also warms the model up."""
        import torch
        from transformers import DynamicCache

        self.model, self.new_cache = model, DynamicCache
        self.threads = torch.get_num_threads()
        self.rows: list[Reply] = []
        self.cache: Any = None
        self.mask: Any = None
        self.waiting: deque[Reply] = deque()
        self.bell = threading.Condition()
        with torch.inference_mode():
            cache: Any = self.new_cache()
            one = torch.ones(1, 1, dtype=torch.long)
            self.forward(one, one, one - 1, cache)
        kept = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        self.room = CACHE_BYTES // sum(t.numel() * t.element_size() for t in kept)

    def start(self) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=self.run, daemon=True, name="engine").start()

    def submit(self, replies: list[Reply]) -> None:
        """Put replies into the queue. From any thread."""
        with self.bell:
            self.waiting.extend(replies)
            self.bell.notify()

    def run(self) -> None:
        """Make replies for ever: take in who waits, then one token for each."""
        import torch

        torch.set_num_threads(self.threads)  # PyTorch counts them for each thread that calls it
        with torch.inference_mode():
            while True:
                fresh = self.admitted()
                try:
                    for group in groups(fresh):
                        self.read(group)
                    if self.rows:
                        self.step()
                except Exception as error:
                    traceback.print_exc()
                    for reply in {*fresh, *self.rows}:
                        if not reply.finish:
                            reply.tell(reply, error)
                    self.rows, self.cache, self.mask = [], None, None

    def admitted(self) -> list[Reply]:
        """The waiting replies that the cache has room for; waits while there is nothing to do."""
        found: list[Reply] = []
        with self.bell:
            while not self.waiting and not self.rows:
                self.bell.wait()
            longest = max((reply.room() for reply in self.rows), default=0)
            while self.waiting and len(self.rows) + len(found) < MOST_ROWS:
                longest = max(longest, self.waiting[0].room())
                count = len(self.rows) + len(found) + 1
                if count > 1 and longest * count > self.room:
                    break
                reply = self.waiting.popleft()
                if not reply.cancelled:
                    found.append(reply)
        return found

    def read(self, replies: list[Reply]) -> None:
        """Compute the prompts of new replies and the first token of each."""
        import torch

        prompts = [reply.prompt for reply in replies]
        shared = len(os.path.commonprefix(prompts)) if len(prompts) > 1 else 0
        shared = min(shared, min(map(len, prompts)) - 1)
        cache = self.new_cache()
        if shared < SHARED:
            shared = 0
        else:
            start = torch.tensor([prompts[0][:shared]])
            self.forward(start, torch.ones_like(start), torch.arange(shared)[None], cache)
            cache.batch_repeat_interleave(len(prompts))
        width = max(map(len, prompts)) - shared
        fill = [width + shared - len(ids) for ids in prompts]
        ids = [[0] * n + p[shared:] for n, p in zip(fill, prompts, strict=True)]
        mask = torch.tensor([[1] * shared + [0] * n + [1] * (width - n) for n in fill])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
        logits = self.forward(torch.tensor(ids), mask, positions, cache)
        self.extend(replies, cache, mask, logits)

    def step(self) -> None:
        """Compute the next token of every reply."""
        import torch

        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), 1)], 1)
        last = torch.tensor([[reply.tokens[-1]] for reply in self.rows])
        positions = self.mask.sum(1, keepdim=True) - 1
        logits = self.forward(last, self.mask, positions, self.cache)
        going = grown(self.rows, logits)
        if len(going) < len(self.rows):
            self.rows, self.mask = kept(self.rows, self.cache, self.mask, going)

    def forward(self, ids: Any, mask: Any, positions: Any, cache: Any) -> Any:
        """The logits after the last token of each row, shape (rows, vocabulary), in fp32."""
        device = self.model.device
        out = self.model(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1].float().cpu()

    def extend(self, replies: list[Reply], cache: Any, mask: Any, logits: Any) -> None:
        """Add those of the new replies to the batch that their first token does not end."""
        import torch
        from torch.nn.functional import pad

        replies, mask = kept(replies, cache, mask, grown(replies, logits))
        if not replies or not self.rows:
            if replies:
                self.rows, self.cache, self.mask = replies, cache, mask
            return
        width = max(mask.shape[1], self.mask.shape[1])

        def filled(tensor: Any, dim: int) -> Any:
            lacks = width - tensor.shape[dim]
            return pad(tensor, (0, 0, lacks, 0) if dim == -2 else (lacks, 0)) if lacks else tensor

        for mine, new in zip(self.cache.layers, cache.layers, strict=True):
            mine.keys = torch.cat([filled(mine.keys, -2), filled(new.keys, -2)])
            mine.values = torch.cat([filled(mine.values, -2), filled(new.values, -2)])
        self.mask = torch.cat([filled(self.mask, -1), filled(mask, -1)])
        self.rows = [*self.rows, *replies]


def groups(replies: list[Reply]) -> list[list[Reply]]:
    """Replies to read together: not too many, and of like length, so that little is filler."""
    found: list[list[Reply]] = []
    for reply in sorted(replies, key=lambda one: len(one.prompt)):
        # sorted: this one is the longest so far
        if found and (len(found[-1]) + 1) * len(reply.prompt) <= READ_TOKENS:
            found[-1].append(reply)
        else:
            found.append([reply])
    return found


def grown(rows: list[Reply], logits: Any) -> list[int]:
    """Give every reply its next token, and tell who listens; the places of those that go on."""
    going = []
    best = logits.argmax(-1).tolist()
    for i, reply in enumerate(rows):
        if reply.cancelled:
            continue
        try:
            reply.add(best[i] if reply.plain else reply.pick(logits[i]), logits[i])
        except Refusal as refusal:  # of this one; the others go on
            reply.tell(reply, refusal)
            continue
        if reply.finish or reply.wish.stream:
            reply.tell(reply, None)
        if not reply.finish:
            going.append(i)
    return going


def kept(rows: list[Reply], cache: Any, mask: Any, places: list[int]) -> tuple[list[Reply], Any]:
    """The rows and the mask at these places; the cache is cut to them, without empty columns."""
    import torch

    if len(places) == len(rows):
        return rows, mask
    if not places:
        return [], mask[:0]
    cache.batch_select_indices(torch.tensor(places, device=cache.layers[0].keys.device))
    mask = mask[places]
    used = mask.any(0)
    if not used.all():
        mask, where = mask[:, used], used.to(cache.layers[0].keys.device)
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[:, :, where], layer.values[:, :, where]
    return [rows[i] for i in places], mask
