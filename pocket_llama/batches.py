"""From dialogues to padded batches of token ids, targets and weights.

The weights say what the model is trained on: the label most, the rest of an answer less, and the
text of the prompt a little, as ordinary language modelling. Beside them stands which user turn
has which label, for the training-only head of `train.py`. This module knows no model.
"""

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models

from pocket_llama.dialogues import Drawer, Example
from pocket_llama.evaluate import LABELS
from pocket_llama.teacher import Teacher, around_phrase, draw
from pocket_llama.tokenizer import CONTEXT

Chances = tuple[float, ...]

BOS, EOS = 1, 2
LENGTHS = (32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 416, 512, 768, CONTEXT)
TOKENS = 2048  # in a batch
POOL = 1200  # examples that are sorted by length together
LABEL, ANSWER, PROMPT = 1.0, 0.35, 0.01  # a target's weight in the loss


@dataclass
class Encoded:
    """One example as ids, the weight of each id as a target, and the labelled turns.

    `turns` holds (first index, index after the last, probabilities of the three `LABELS`).
    """

    ids: list[int]
    weights: list[float]
    turns: list[tuple[int, int, Chances]]


@dataclass
class Batch:
    """Examples padded on the right to one length: ids and weights of shape (rows, length).

    `turn` gives for each token the number of its labelled turn, 0 for none; turns are counted
    from 1 through the whole batch and `labels[turn - 1]` has the probabilities of its label.
    """

    ids: torch.Tensor
    weights: torch.Tensor
    turn: torch.Tensor
    labels: torch.Tensor


def certain(label: str) -> Chances:
    """All probability on one label."""
    return tuple(float(name == label) for name in LABELS)


def label_in(answer: str) -> str | None:
    """Which label an answer gives; None where it gives none."""
    found = re.match(r'(?:\{"sentiment": ")?(positive|negative|neutral)\b', answer, re.IGNORECASE)
    return found[1].capitalize() if found else None


class Encoder:
    """Turns examples into ids, laid out exactly as the chat template does it."""

    def __init__(self, tokenizer: Tokenizer, dropout: float = 0.1) -> None:
        """`dropout` is the chance that a merge is left out (BPE-dropout, arXiv 1910.13267)."""
        self.plain = tokenizer
        self.rough = Tokenizer.from_str(tokenizer.to_str())
        assert isinstance(self.rough.model, models.BPE)
        self.rough.model.dropout = dropout

    def encode(self, example: Example, rng: random.Random | None = None) -> Encoded:
        """Ids and weights of one example. With `rng`, a third of the prompts are split roughly."""
        rough = rng is not None and rng.random() < 0.33
        splitter = self.rough if rough else self.plain
        if not example.messages:
            ids = [BOS, *splitter.encode(example.text, add_special_tokens=False).ids, EOS]
            return Encoded(ids[:CONTEXT], [PROMPT * 3] * len(ids[:CONTEXT]), [])
        turns: list[tuple[int, int, Chances]] = []
        start = 0
        ids: list[int] = []
        weights: list[float] = []
        system = ""
        for message in example.messages:
            content = message["content"]
            if message["role"] == "system":
                system = f"<<SYS>>\n{content}\n<</SYS>>\n\n"
            elif message["role"] == "user":
                text = f"[INST] {(system + content).strip()} [/INST]"
                system = ""
                start = len(ids)
                new = [BOS, *splitter.encode(text, add_special_tokens=False).ids]
                ids += new
                weights += [PROMPT] * len(new)
            else:
                new = [
                    *self.plain.encode(f" {content.strip()} ", add_special_tokens=False).ids,
                    EOS,
                ]
                label = label_in(content)
                if label is not None and len(ids) < CONTEXT:
                    turns.append((start, len(ids), certain(label)))
                ids += new
                weights += [LABEL] + [ANSWER] * (len(new) - 1)
        return Encoded(ids[:CONTEXT], weights[:CONTEXT], turns)


def pad(rows: list[Encoded], length: int) -> Batch:
    """Right-pad a few examples to `length`."""
    ids = torch.full((len(rows), length), EOS)
    weights = torch.zeros(len(rows), length)
    turn = torch.zeros(len(rows), length, dtype=torch.long)
    labels: list[Chances] = []
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        weights[i, : len(row.ids)] = torch.tensor(row.weights)
        for start, end, label in row.turns:
            labels.append(label)
            turn[i, start:end] = len(labels)
    return Batch(ids, weights, turn, torch.tensor(labels).reshape(-1, 3))


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
        batches += [pad(group[i : i + size], length) for i in range(0, len(group), size)]
    rng.shuffle(batches)
    return batches


def dialogue_batches(drawer: Drawer, encoder: Encoder, seed: int) -> Iterator[Batch]:
    """Batches of dialogues and plain texts, without end; decided by the seed."""
    for number in itertools.count():
        rng = random.Random(f"dialogues:{seed}:{number}")
        rows = [encoder.encode(drawer.draw(rng), rng) for _ in range(POOL)]
        yield from pool_batches(rows, rng)


def bare(texts: list[tuple[str, Chances]], encoder: Encoder, rng: random.Random) -> Iterator[Batch]:
    """Batches of bare texts, nothing to predict in them: for the turn heads."""
    rows = []
    for text, chances in texts:
        splitter = encoder.rough if rng.random() < 0.33 else encoder.plain
        ids = [BOS, *splitter.encode(text, add_special_tokens=False).ids][:CONTEXT]
        rows.append(Encoded(ids, [0.0] * len(ids), [(0, len(ids), chances)]))
    yield from pool_batches(rows, rng)


def softened(label: str) -> Chances:
    """Nearly all probability on one label: for pieces of reviews, which may say less."""
    return tuple(0.05 + 0.85 * chance for chance in certain(label))


def piece_batches(drawer: Drawer, encoder: Encoder, teacher: Teacher, seed: int) -> Iterator[Batch]:
    """Batches of bare texts for the turn heads, without end, a third of each kind.

    Whole reviews; the deciding words of reviews as their authors marked them, with a little
    around; fragments with the teacher's probabilities.
    """
    marked = [r for r in drawer.reviews if r.phrase]
    for number in itertools.count():
        rng = random.Random(f"pieces:{seed}:{number}")
        drawn = [drawer.review(rng) for _ in range(POOL // 3)]
        texts = [(r.text, certain(r.label)) for r in drawn]
        drawn = [rng.choice(marked) for _ in range(POOL // 3)]
        texts += [(around_phrase(r, rng), softened(r.label)) for r in drawn]
        pieces = [draw(drawer.reviews, rng) for _ in range(POOL - len(texts))]
        texts += zip(pieces, teacher.probabilities(pieces), strict=True)
        yield from bare(texts, encoder, rng)


def bags(
    drawer: Drawer, encoder: Encoder, seed: int, passes: int
) -> Iterator[tuple[float, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]:
    """Batches of 256 texts as bags of tokens, for `passes` times the number of reviews.

    Each comes with the share that is done; a batch is the ids of all texts in one row, where each
    text starts, and the texts' labels as probabilities of shape (256, 3). A tenth of the tokens
    is left out.
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
            splitter = encoder.rough if rng.random() < 0.33 else encoder.plain
            ids = splitter.encode(text, add_special_tokens=False).ids
            rows.append([i for i in ids if rng.random() > 0.1] or [0])
            labels.append(certain(review.label))
        starts = [0, *itertools.accumulate(len(row) for row in rows[:-1])]
        yield (
            number / total,
            (
                torch.tensor([i for row in rows for i in row]),
                torch.tensor(starts),
                torch.tensor(labels),
            ),
        )


def steps(drawer: Drawer, encoder: Encoder, teacher: Teacher, seed: int) -> Iterator[list[Batch]]:
    """The batches of one training step after the other: two of dialogues, one of bare texts."""
    dialogues = dialogue_batches(drawer, encoder, seed)
    pieces = piece_batches(drawer, encoder, teacher, seed)
    for _ in itertools.count():
        yield [next(dialogues), next(dialogues), next(pieces)]
