"""More text for a teacher to judge: our reviews, some of their words put there by another model.

    python -m pocket_training.swapping BASE FILE --count 100000      a text a line; resumes

The model (SmolLM2-135M, say) reads a review. At some of its words it says what else might have
stood there, from what it has read so far, and one of the likelier words is taken: "the soup was
cold" becomes "the soup was excellent". The label may change with it, so a teacher has to judge the
result. Much cheaper than writing: one look at a review gives several texts. Replacing words for a
teacher to judge is TinyBERT's way to more data (arXiv 1909.10351).

This module knows nothing of labels and of Pocket Llama.
"""

import itertools
import random
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from pocket_training import corpus, writing
from pocket_training.batches import pad

ROUND = 320  # reviews in a round
BATCH = 32  # reviews read side by side
TIMES = 6  # texts made of a review
SHARES = (0.15, 0.3, 0.5)  # of a review's rarer words that are swapped
LIKELY = 60  # a swapped word is one of so many likeliest
COMMON = 150  # the corpus's most frequent words stay, and no word is swapped for one of them
WORD = re.compile(" [A-Za-z]{2,}")  # a token that is a whole word, after a space


class Swapper:
    """A pretrained model that says which word might have stood in a place."""

    def __init__(self, base: Path) -> None:
        """Load the checkpoint in the folder `base`."""
        self.tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        self.model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        size = self.model.config.vocab_size
        tokens = [self.tokenizer.decode([i]) for i in range(size)]
        common = Counter(word for r in corpus.read() for word in r.text.lower().split())
        kept = {word for word, _ in common.most_common(COMMON)}
        self.is_word = torch.tensor(
            [bool(WORD.fullmatch(token)) and token[1:].lower() not in kept for token in tokens]
        )
        self.goes_on = [re.match(r"[\w'’-]", token) is not None for token in tokens]

    def words(self, ids: list[int]) -> list[int]:
        """The columns of tokens that are whole words and not among the commonest."""
        whole = [*(not self.goes_on[i] for i in ids[1:]), True]
        return [i for i in range(1, len(ids)) if self.is_word[ids[i]] and whole[i]]

    @torch.inference_mode()
    def swapped(self, texts: list[str], rng: random.Random) -> list[str]:
        """`TIMES` new texts of each text that has words to swap."""
        rows = [self.tokenizer.encode(text, add_special_tokens=False).ids[:256] for text in texts]
        at = [self.words(row) for row in rows]
        if not any(at):
            return []
        states = self.model.model(pad(rows, max(map(len, rows))), use_cache=False).last_hidden_state
        row = [i for i, places in enumerate(at) for _ in places]
        before = [place - 1 for places in at for place in places]
        logits = self.model.lm_head(states[row, before])
        said = torch.tensor([rows[i][k + 1] for i, k in zip(row, before, strict=True)])
        logits[:, ~self.is_word] = -torch.inf
        logits[torch.arange(len(said)), said] = -torch.inf
        top, index = logits.softmax(-1).topk(LIKELY)
        generator = torch.Generator().manual_seed(rng.getrandbits(60))
        drawn = index.gather(1, torch.multinomial(top, TIMES, generator=generator)).tolist()
        new = iter(drawn)
        return [
            self.tokenizer.decode(ids)
            for ids, places in zip(rows, at, strict=True)
            for ids in variants(ids, {place: next(new) for place in places}, rng)
        ]


def variants(ids: list[int], others: dict[int, list[int]], rng: random.Random) -> list[list[int]]:
    """The ids `TIMES` times, each time with some of the `others` in place."""
    found = []
    for k in range(TIMES if others else 0):
        count = max(1, round(rng.choice(SHARES) * len(others)))
        new = list(ids)
        for place in rng.sample(list(others), count):
            new[place] = others[place][k]
        found.append(new)
    return found


def rounds(swapper: Swapper, first: int) -> Iterator[list[str]]:
    """The texts of one round after the other, from round `first` on; a round decides its own."""
    reviews = [r.text for r in corpus.split()["train"]]
    for number in itertools.count(first):
        rng = random.Random(f"swapping:{number}")
        chosen = sorted(rng.sample(reviews, min(ROUND, len(reviews))), key=len)
        parts = [chosen[i : i + BATCH] for i in range(0, len(chosen), BATCH)]
        yield [text for part in parts for text in swapper.swapped(part, rng)]


def main() -> None:
    """Swap words of our reviews."""
    args = writing.arguments(__doc__, 100_000)
    writing.collect(args.file, args.count, partial(rounds, Swapper(args.base)))


if __name__ == "__main__":
    main()
