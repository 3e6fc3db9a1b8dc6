"""From dialogues and judged texts to padded batches of token ids, targets and weights.

The weights say what the model is trained on: the label most, the rest of an answer less, and the
text of the prompt a little, as ordinary language modelling. Beside the dialogues stand bare texts
that the teacher has judged word by word, for the training-only heads of `train.py`. This module
knows no model.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models

from pocket_llama import asking
from pocket_llama.dialogues import Drawer, Example
from pocket_llama.evaluate import LABELS, prompt
from pocket_llama.teacher import Judged, around_phrase
from pocket_llama.tokenizer import CONTEXT

BOS, EOS = 1, 2
LENGTHS = (32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 416, 512, 768, CONTEXT)
TOKENS = 2048  # in a batch of dialogues
POOL = 1200  # examples that are sorted by length together
LABEL, ANSWER, PROMPT = 1.0, 0.35, 0.01  # a target's weight in the loss
LONGEST = 256  # tokens of a judged text; longer ones are left out
AUTHOR = 0.6  # the author's share in the target of a review's last word; the rest is the teacher's
LAST_OF_REVIEW, LAST_OF_PIECE, WITHIN = 4.0, 2.0, 0.5  # a judged word's weight, by where it stands


@dataclass
class Encoded:
    """One example as ids and the weight of each id as a target."""

    ids: list[int]
    weights: list[float]


@dataclass
class Batch:
    """Examples padded on the right to one length: ids and weights of shape (rows, length)."""

    ids: torch.Tensor
    weights: torch.Tensor


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
            return Encoded(ids[:CONTEXT], [PROMPT * 3] * len(ids[:CONTEXT]))
        ids = []
        weights: list[float] = []
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
                ids += new
                weights += [LABEL] + [ANSWER] * (len(new) - 1)
        return Encoded(ids[:CONTEXT], weights[:CONTEXT])


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
    return Batch(pad([row.ids for row in rows], length), weights)


def pool_batches(rows: list[Encoded], rng: random.Random) -> list[Batch]:
    """All of a pool's examples in batches of few shapes: a length of `LENGTHS`, full rows.

    Few shapes matter on a CPU: every new one is compiled by oneDNN and kept in memory. The last
    batch of a length is filled up with examples of that length drawn again.
    """
    by_length: dict[int, list[Encoded]] = {}
    for row in rows:
        by_length.setdefault(next(n for n in LENGTHS if n >= len(row.ids)), []).append(row)
    batches = []
    for length, group in sorted(by_length.items()):
        size = max(1, TOKENS // length)
        group += [rng.choice(group) for _ in range(-len(group) % size)]
        batches += [batch_of(group[i : i + size], length) for i in range(0, len(group), size)]
    rng.shuffle(batches)
    return batches


def dialogue_batches(drawer: Drawer, encoder: Encoder, seed: int) -> Iterator[Batch]:
    """Batches of dialogues and plain texts, without end; decided by the seed."""
    for number in itertools.count():
        rng = random.Random(f"dialogues:{seed}:{number}")
        rows = [encoder.encode(drawer.draw(rng), rng) for _ in range(POOL)]
        yield from pool_batches(rows, rng)


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
    end = whole.rindex(text)
    ends = []
    for word in text.split():
        end = whole.index(word, end) + len(word)
        ends.append(end)
    places: list[int] = []
    for index, (_, stop) in enumerate(found.offsets):
        while len(places) < len(ends) and stop >= ends[len(places)]:
            places.append(index + 1)  # BOS stands first
    return Row([BOS, *found.ids], places, judged, asked)


def beginnings(rows: list[Row]) -> Beginnings:
    """Pad a few judged texts to one length, a multiple of 8, and gather their targets."""
    row, column, chances, weights, asked, end, answers = [], [], [], [], [], [], []
    for i, text in enumerate(rows):
        targets = torch.from_numpy(text.judged.chances).clone()
        counts = torch.full((len(targets),), WITHIN)
        counts[-1] = LAST_OF_REVIEW if text.judged.label else LAST_OF_PIECE
        if text.judged.label:
            right = torch.tensor([name == text.judged.label for name in LABELS]).float()
            targets[-1] = (1 - AUTHOR) * targets[-1] + AUTHOR * right
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
    judged: list[Judged], encoder: Encoder, seed: int, tokens: int, prompts: float
) -> Iterator[Beginnings]:
    """Batches of at most `tokens` tokens without end, decided by the seed: half of them reviews.

    The share `prompts` of the texts stands in a prompt.
    """
    reviews = [text for text in judged if text.label]
    pieces = [text for text in judged if not text.label]
    for number in itertools.count():
        rng = random.Random(f"beginnings:{seed}:{number}")
        drawn = [rng.choice(pieces if rng.random() < 0.5 else reviews) for _ in range(POOL)]
        rows = [row_of(text, encoder, rng, prompts) for text in drawn]
        rows = sorted((r for r in rows if len(r.ids) <= LONGEST), key=lambda r: len(r.ids))
        groups: list[list[Row]] = [[]]
        for row in rows:
            if groups[-1] and (len(row.ids) + 7) // 8 * 8 * (len(groups[-1]) + 1) > tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        yield from map(beginnings, groups)


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
