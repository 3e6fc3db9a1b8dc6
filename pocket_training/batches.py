"""From dialogues, copies and judged texts to padded batches of token ids, targets and weights.

The weights say what the model is trained on: the label most, the rest of an answer less, and the
text of the prompt a little, as ordinary language modelling. Beside the dialogues stand bare texts
that the teacher has judged word by word, for the training-only heads of `model.py`, and rows that
say the same tokens twice, to learn copying from. This module knows no model.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from tokenizers import Tokenizer, models

from pocket_training import asking
from pocket_training.dialogues import Drawer, Example
from pocket_training.evaluate import LABELS, prompt
from pocket_training.teacher import Judged, around_phrase
from pocket_training.tokenizer import CONTEXT, last_tokens

BOS, EOS = 1, 2
LENGTHS = (32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 416, 512, 768, CONTEXT)
POOL = 1200  # examples that are sorted by length together, for each 4,096 tokens of a batch
LABEL, QUOTED, ANSWER = 1.0, 1.0, 0.35  # a target's weight in the loss
PROMPT, PLAIN = 0.01, 0.08  # below 0.1: a prompt's own text, and plain text
PREVIOUS, AGAIN, QUOTE = 0, 1, 2  # kinds of link
LONGEST = 256  # tokens of a judged text; longer ones are left out
LAST_OF_REVIEW, LAST_OF_PIECE, WITHIN = 4.0, 2.0, 0.5  # a judged word's weight, by where it stands


@dataclass
class Encoded:
    """One example as ids, the weight of each id as a target, and links as in `Batch`."""

    ids: list[int]
    weights: list[float]
    links: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass
class Batch:
    """Examples padded on the right to one length: ids and weights of shape (rows, length).

    `links`, of shape (links, 4), say where a few attention heads should look: row, the column of
    the query, the column of the key, the kind. `PREVIOUS`: the token before this one. `AGAIN`:
    the token that followed when these tokens stood here before. `QUOTE`: the first of the words
    that an answer is about to quote.
    """

    ids: torch.Tensor
    weights: torch.Tensor
    links: torch.Tensor


@dataclass
class Beginnings:
    """Judged texts, padded on the right: ids of shape (rows, length), and the judged places.

    A place is the last token of a word. `row` and `column`, of shape (places,), say where it is,
    `chances` (places, 3) what the text up to there means, `weights` (places,) how much that counts.
    Some texts stand in a prompt: `asked` (prompts,) are their rows, `end` (prompts,) the columns of
    the prompts' last tokens, `answers` (prompts, 3) the probabilities of the label that follows.
    """

    ids: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor
    chances: torch.Tensor
    weights: torch.Tensor
    asked: torch.Tensor
    end: torch.Tensor
    answers: torch.Tensor


class Encoder:
    """Turns examples into ids, laid out exactly as the chat template does it."""

    def __init__(self, tokenizer: Tokenizer, dropout: float = 0.1) -> None:
        """`dropout` is the chance that a merge is left out (BPE-dropout, arXiv 1910.13267).

        The library draws it from a generator of its own without a seed: the one thing in which
        two trainings from the same seed differ.
        """
        self.plain = tokenizer
        self.rough = Tokenizer.from_str(tokenizer.to_str())
        assert isinstance(self.rough.model, models.BPE)
        self.rough.model.dropout = dropout

    def splitter(self, rng: random.Random | None) -> Tokenizer:
        """The tokenizer for one text: with `rng`, in a third of the cases the rough one."""
        return self.rough if rng is not None and rng.random() < 0.33 else self.plain

    def encode(self, example: Example, rng: random.Random | None = None) -> Encoded:
        """Ids and weights of one example. With `rng`, a third of the prompts are split roughly."""
        splitter = self.splitter(rng)
        if not example.messages:
            ids = [BOS, *splitter.encode(example.text, add_special_tokens=False).ids, EOS]
            return Encoded(ids[:CONTEXT], [PLAIN] * len(ids[:CONTEXT]))
        ids = []
        weights: list[float] = []
        links: list[tuple[int, int, int]] = []
        quotes = iter(example.quotes)
        system = ""
        for message in example.messages:
            content = message["content"]
            if message["role"] == "system":
                system = f"<<SYS>>\n{content}\n<</SYS>>\n\n"
            elif message["role"] == "user":
                text = f"[INST] {(system + content).strip()} [/INST]"
                system = ""
                new = [BOS, *splitter.encode(text, add_special_tokens=False).ids]
                ids += new
                weights += [PROMPT] * len(new)
            else:
                new = [
                    *self.plain.encode(f" {content.strip()} ", add_special_tokens=False).ids,
                    EOS,
                ]
                weights += [LABEL] + [ANSWER] * (len(new) - 1)
                words = next(quotes, "")
                quote = self.plain.encode(f" {words}", add_special_tokens=False).ids
                there, here = last_run(ids, quote), last_run(new, quote)
                here += len(ids)
                ids += new
                if words and there >= 0 and here >= len(ids) - len(new):
                    end = here + len(quote) + 1  # when to stop counts as much
                    weights[here:end] = [QUOTED] * (end - here)
                    links += [
                        (here + k - 1, there + k, AGAIN if k else QUOTE) for k in range(len(quote))
                    ]
        links = [link for link in links if link[0] < CONTEXT - 1]
        return Encoded(ids[:CONTEXT], weights[:CONTEXT], links)


def last_run(ids: list[int], run: list[int]) -> int:
    """Where `run` last stands in `ids`, -1 where it does not."""
    starts = range(len(ids) - len(run), -1, -1)
    return next((s for s in starts if ids[s : s + len(run)] == run), -1)


def pad(rows: list[list[int]], length: int) -> torch.Tensor:
    """The rows of ids, right-padded to `length`: (rows, length)."""
    ids = torch.full((len(rows), length), EOS)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids


def batch_of(rows: list[Encoded], length: int) -> Batch:
    """Right-pad a few examples to `length`."""
    weights = torch.zeros(len(rows), length)
    for i, row in enumerate(rows):
        weights[i, : len(row.weights)] = torch.tensor(row.weights)
    links = [(i, *link) for i, row in enumerate(rows) for link in row.links]
    ids = pad([row.ids for row in rows], length)
    return Batch(ids, weights, torch.tensor(links, dtype=torch.long).reshape(-1, 4))


def pool_size(tokens: int) -> int:
    """How many examples to sort by length together: enough for well-filled batches."""
    return POOL * max(1, tokens // 4096)


def pool_batches(rows: list[Encoded], rng: random.Random, tokens: int) -> list[Batch]:
    """All of a pool's examples in batches of few shapes: a length of `LENGTHS`, `tokens` tokens.

    Few shapes matter on a CPU: every new one is compiled by oneDNN and kept in memory. The last
    batch of a length is filled up with examples of that length drawn again.
    """
    by_length: dict[int, list[Encoded]] = {}
    for row in rows:
        by_length.setdefault(next(n for n in LENGTHS if n >= len(row.ids)), []).append(row)
    batches = []
    for length, group in sorted(by_length.items()):
        size = max(1, tokens // length)
        group += [rng.choice(group) for _ in range(-len(group) % size)]
        batches += [batch_of(group[i : i + size], length) for i in range(0, len(group), size)]
    rng.shuffle(batches)
    return batches


def dialogue_batches(drawer: Drawer, encoder: Encoder, seed: str, tokens: int) -> Iterator[Batch]:
    """Batches of dialogues and plain texts, without end; decided by the seed."""
    for number in itertools.count():
        rng = random.Random(f"dialogues:{seed}:{number}")
        rows = [encoder.encode(drawer.draw(rng), rng) for _ in range(pool_size(tokens))]
        yield from pool_batches(rows, rng, tokens)


def copy_batches(drawer: Drawer, encoder: Encoder, seed: str, tokens: int) -> Iterator[Batch]:
    """Rows that say some tokens and then, from somewhere among them on, say them again.

    The tokens are words of reviews in a wild order, in a quarter of the rows any tokens: nothing
    but looking back tells what comes next. Without end; decided by the seed.
    """
    pieces = range(259, encoder.plain.get_vocab_size())  # up to 258: special tokens and bytes
    for number in itertools.count():
        rng = random.Random(f"copies:{seed}:{number}")
        length = rng.choice([8, 16, 16, 32, 64])
        rows = []
        for _ in range(tokens // (2 * length)):
            text = " ".join(rng.choice(drawer.reviews).text for _ in range(2 + length // 6))
            said = encoder.plain.encode(f" {text}", add_special_tokens=False).ids
            said = list(dict.fromkeys(said))  # each once: one place to look at
            rng.shuffle(said)
            if rng.random() < 0.25:
                said = rng.sample(pieces, length)
            said = said[:length]
            start = rng.randrange(1 + len(said) // 2)
            again = said[start:]
            here = 1 + len(said)
            links = [(p, p - 1, PREVIOUS) for p in range(1, here + len(again) - 1)]
            links += [(here + k - 1, 1 + start + k, AGAIN) for k in range(1, len(again))]
            weights = [0.0] * (here + 1) + [QUOTED] * (len(again) - 1)
            rows.append(Encoded([BOS, *said, *again], weights, links))
        yield batch_of(rows, 1 + 2 * length)


@dataclass
class Row:
    """A judged text as ids; `places` are its words' last tokens, `asked`: it is in a prompt."""

    ids: list[int]
    places: list[int]
    judged: Judged
    asked: bool


def row_of(judged: Judged, encoder: Encoder, rng: random.Random, prompts: float) -> Row:
    """A judged text, at times in small or capital letters or split roughly.

    The share `prompts` of the texts stands in a prompt that asks for the label.
    """
    draw = rng.random()
    text = judged.text.lower() if draw < 0.15 else judged.text
    text = text.upper() if 0.15 <= draw < 0.18 else text
    asked = rng.random() < prompts
    system = rng.choice([asking.SEED_SYSTEM, rng.choice([*asking.SYSTEMS, None])])
    whole = prompt(text, system) if asked else text
    found = encoder.splitter(rng).encode(whole, add_special_tokens=False)
    places = [1 + place for place in last_tokens(found, whole, text)]  # BOS stands first
    return Row([BOS, *found.ids], places, judged, asked)


def beginnings(rows: list[Row], author: float) -> Beginnings:
    """Pad a few judged texts to one length, a multiple of 8, and gather their targets.

    `author` is the author's share in the target of a review's last word, beside the teacher's.
    """
    row, column, chances, weights, asked, end, answers = [], [], [], [], [], [], []
    for i, text in enumerate(rows):
        targets = torch.from_numpy(text.judged.chances).clone()
        counts = torch.full((len(targets),), WITHIN)
        counts[-1] = LAST_OF_REVIEW if text.judged.label else LAST_OF_PIECE
        if text.judged.label:
            right = torch.tensor([name == text.judged.label for name in LABELS]).float()
            targets[-1] = (1 - author) * targets[-1] + author * right
        if text.asked:
            asked.append(i)
            end.append(len(text.ids) - 1)
            answers.append(targets[-1])
        row += [i] * len(targets)
        column += text.places
        chances.append(targets)
        weights.append(counts)
    length = -(-max(len(text.ids) for text in rows) // 8) * 8
    return Beginnings(
        pad([text.ids for text in rows], length),
        torch.tensor(row),
        torch.tensor(column),
        torch.cat(chances),
        torch.cat(weights),
        torch.tensor(asked, dtype=torch.long),
        torch.tensor(end, dtype=torch.long),
        torch.stack(answers) if answers else torch.zeros(0, 3),
    )


def beginning_batches(
    judged: list[Judged],
    encoder: Encoder,
    seed: str,
    tokens: int,
    prompts: float,
    author: float,
    whole: float,
) -> Iterator[Beginnings]:
    """Batches of at most `tokens` tokens without end, decided by the seed.

    The share `whole` of the texts are reviews, the share `prompts` of all stands in a prompt;
    `author` as in `beginnings`.
    """
    reviews = [text for text in judged if text.label]
    pieces = [text for text in judged if not text.label]
    for number in itertools.count():
        rng = random.Random(f"beginnings:{seed}:{number}")
        drawn = [
            rng.choice(reviews if rng.random() < whole else pieces)
            for _ in range(pool_size(tokens))
        ]
        rows = [row_of(text, encoder, rng, prompts) for text in drawn]
        rows = sorted((r for r in rows if len(r.ids) <= LONGEST), key=lambda r: len(r.ids))
        groups: list[list[Row]] = [[]]
        for row in rows:
            if groups[-1] and (len(row.ids) + 7) // 8 * 8 * (len(groups[-1]) + 1) > tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        yield from (beginnings(group, author) for group in groups)


def bags(
    drawer: Drawer, encoder: Encoder, seed: int, passes: int
) -> Iterator[tuple[float, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]:
    """Batches of 256 texts as bags of tokens, for `passes` times the number of reviews.

    Each comes with the share that is done; a batch is the ids of all texts in one row, where each
    text starts, and the texts' labels as indices into `LABELS`. A tenth of the tokens is left out.
    """
    rng = random.Random(f"bags:{seed}")
    marked = [r for r in drawer.reviews if r.phrase]
    total = passes * len(drawer.reviews) // 256
    for number in range(total):
        rows, labels = [], []
        for k in range(256):
            whole = k % 4 > 0 or not marked
            review = drawer.review(rng) if whole else rng.choice(marked)
            text = review.text if whole else around_phrase(review, rng)
            ids = encoder.splitter(rng).encode(text, add_special_tokens=False).ids
            rows.append([i for i in ids if rng.random() > 0.1] or [0])
            labels.append(LABELS.index(review.label))
        starts = [0, *itertools.accumulate(len(row) for row in rows[:-1])]
        yield (
            number / total,
            (
                torch.tensor([i for row in rows for i in row]),
                torch.tensor(starts),
                torch.tensor(labels),
            ),
        )
