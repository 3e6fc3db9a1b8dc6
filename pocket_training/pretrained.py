"""A teacher that knows the language: a small pretrained model, tuned on the corpus.

    python -m pocket_training.pretrained BASE                       tune; how good it is then
    python -m pocket_training.pretrained BASE --file reviews.tsv    the same on text<TAB>label

`BASE` is a folder with a Llama checkpoint (SmolLM2-135M, say). Its first layers are kept and tuned
in one pass over the training reviews: after every word a linear head says which label the text is
going to have. One pass, so that what it says of a training review is not what it has learned by
heart. It judges as `teacher.Teacher` does: probabilities after each word.

This module knows nothing of chat formats and of Pocket Llama.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tqdm.auto import tqdm
from transformers import LlamaForTokenClassification

from pocket_training import corpus, evaluate
from pocket_training.batches import pad
from pocket_training.corpus import Review
from pocket_training.model import save_checkpoint
from pocket_training.teacher import Judged, pieces
from pocket_training.tokenizer import last_tokens

LABELS = evaluate.LABELS
RUN = Path(__file__).parent / "run" / "pretrained"
LAYERS = 20  # of SmolLM2's 30: two thirds of the time
BATCH = 48  # reviews in a step
POOL = 50 * BATCH  # reviews that are sorted by length together
PEAK, HEAD_PEAK = 1e-4, 1e-3  # learning rates of the layers and of the new head
WARM_UP = 60  # steps
WITHIN = 0.05  # the weight of a word within a review, against 1 for its last one
EVERY = 200  # steps between checkpoints


@dataclass
class Encoded:
    """A text as ids, and the columns of its words' last tokens."""

    ids: list[int]
    places: list[int]


def encode(tokenizer: Tokenizer, text: str) -> Encoded:
    """The text's ids, cut at 256, and where its words end. An empty text is one token."""
    found = tokenizer.encode(text, add_special_tokens=False)
    places = last_tokens(found, text, text)
    return Encoded(found.ids[:256] or [0], [min(p, 255) for p in places] or [0])


def padded(rows: list[Encoded]) -> torch.Tensor:
    """Ids of shape (rows, longest); the model looks back only, so any padding will do."""
    return pad([row.ids for row in rows], max(len(row.ids) for row in rows))


def pools(reviews: list[Review], tokenizer: Tokenizer, seed: int) -> Iterator[list[Review]]:
    """Batches of reviews of like length, each review once, decided by the seed."""
    rng = random.Random(f"pretrained:{seed}")
    order = rng.sample(reviews, len(reviews))
    for start in range(0, len(order), POOL):
        pool = sorted(order[start : start + POOL], key=lambda r: len(tokenizer.encode(r.text).ids))
        parts = [pool[i : i + BATCH] for i in range(0, len(pool), BATCH)]
        rng.shuffle(parts)
        yield from parts


def loss(
    model: LlamaForTokenClassification, rows: list[Encoded], labels: list[int]
) -> torch.Tensor:
    """Cross-entropy of the label after each word, the last word's weighted most."""
    logits = model(input_ids=padded(rows), use_cache=False).logits.float()
    row = [i for i, text in enumerate(rows) for _ in text.places]
    column = [place for text in rows for place in text.places]
    weights = torch.tensor([w for text in rows for w in [WITHIN] * (len(text.places) - 1) + [1.0]])
    targets = torch.tensor([labels[i] for i in row])
    losses = torch.nn.functional.cross_entropy(logits[row, column], targets, reduction="none")
    return (losses * weights).sum() / weights.sum()


class Pretrained:
    """The tuned model; gives probabilities in the order of `LABELS`."""

    def __init__(self, folder: Path, layers: int | None = None) -> None:
        """Load from `folder`; `layers`: only its first ones, with a new head."""
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        changes: dict[str, Any] = {}
        if layers:
            changes = {"num_hidden_layers": layers, "num_labels": len(LABELS)}
        self.model = LlamaForTokenClassification.from_pretrained(
            folder, dtype=torch.float32, **changes
        )
        self.model.eval()

    @torch.inference_mode()
    def judge(self, texts: list[str], batch: int = 64) -> list[np.ndarray]:
        """For each text the probabilities after each of its words, of shape (words, 3)."""
        rows = [encode(self.tokenizer, text) for text in texts]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
        found: list[np.ndarray] = [np.empty(0)] * len(rows)
        starts = range(0, len(order), batch)
        for start in tqdm(starts, unit="batch", desc="judging", disable=len(starts) < 100):
            chosen = order[start : start + batch]
            ids = padded([rows[i] for i in chosen])
            chances = self.model(input_ids=ids, use_cache=False).logits.float().softmax(-1).numpy()
            for k, i in enumerate(chosen):
                found[i] = chances[k, rows[i].places]
        return found

    def labels(self, texts: list[str]) -> list[str]:
        """The likeliest label of each text."""
        return [LABELS[int(chances[-1].argmax())] for chances in self.judge(texts)]

    def accuracy(self, reviews: list[Review]) -> float:
        """The share of reviews whose label is right."""
        found = self.labels([r.text for r in reviews])
        return sum(f == r.label for f, r in zip(found, reviews, strict=True)) / len(reviews)


def judged(folder: Path, reviews: list[Review], seed: int = 0) -> list[Judged]:
    """All reviews, and fragments and pairs of a quarter of them, judged by the tuned model."""
    rng = random.Random(f"pieces:{seed}")
    labelled = [(r.text, r.label) for r in reviews]
    labelled += [(text, "") for text in pieces(rng.sample(reviews, len(reviews) // 4), rng, 1)]
    return judged_texts(folder, labelled)


def judged_texts(folder: Path, labelled: list[tuple[str, str]]) -> list[Judged]:
    """Texts with their authors' labels, "" where there is none, judged by the tuned model."""
    chances = Pretrained(folder).judge([text for text, _ in labelled])
    return [Judged(*pair, c) for pair, c in zip(labelled, chances, strict=True)]


class Tuning:
    """A tuning under way: the model, its optimizer, and how far it has come."""

    def __init__(self, base: Path, run: Path, seed: int) -> None:
        """Start anew, or go on where an interruption left it."""
        torch.manual_seed(seed)  # the head's first weights
        self.teacher, self.run, self.seed = Pretrained(base, LAYERS), run, seed
        parts = corpus.split()
        self.reviews = parts["train"]
        self.few = random.Random(seed).sample(
            parts["validation"], min(800, len(parts["validation"]))
        )
        model = self.teacher.model
        model.get_input_embeddings().requires_grad_(False)  # rare words keep what they meant
        inside = [p for p in model.model.parameters() if p.requires_grad]
        groups = [
            {"params": inside, "peak": PEAK},
            {"params": list(model.score.parameters()), "peak": HEAD_PEAK},
        ]
        self.adam = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self.done, self.running, self.log, self.began = 0, 0.0, [], time.time()
        if (run / "checkpoint.pt").exists():
            held = torch.load(run / "checkpoint.pt")
            model.load_state_dict(held["model"])
            self.adam.load_state_dict(held["adam"])
            self.done, self.log, self.running = held["done"], held["log"], held["running"]

    def whole(self) -> Pretrained:
        """Do what is left of the pass, and save the model."""
        batches = list(pools(self.reviews, self.teacher.tokenizer, self.seed))
        for batch in tqdm(batches[self.done :], initial=self.done, total=len(batches), unit="step"):
            self.step(batch, len(batches))
            if self.done % EVERY == 0 or self.done == len(batches):
                self.keep()
        self.teacher.model.save_pretrained(self.run / "model")
        self.teacher.tokenizer.save(str(self.run / "model" / "tokenizer.json"))
        return self.teacher

    def step(self, batch: list[Review], total: int) -> None:
        """One step: linear warm-up, and a cosine down to 2 % of the peaks."""
        share = min(1.0, (self.done + 1) / WARM_UP)
        share *= 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.done / total))
        for group in self.adam.param_groups:
            group["lr"] = group["peak"] * share
        torch.manual_seed(self.seed * 1_000_003 + self.done)  # dropout before the head
        model = self.teacher.model.train()
        rows = [encode(self.teacher.tokenizer, r.text) for r in batch]
        found = loss(model, rows, [LABELS.index(r.label) for r in batch])
        found.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self.adam.step()
        self.adam.zero_grad()
        model.eval()
        self.running = 0.98 * self.running + 0.02 * found.item() if self.running else found.item()
        self.done += 1

    def keep(self) -> None:
        """See how good it is, say so, and write a checkpoint: whole or not at all."""
        entry = {
            "step": self.done,
            "minutes": round((time.time() - self.began) / 60, 1),
            "loss": round(self.running, 4),
            "validation": round(self.teacher.accuracy(self.few), 4),
        }
        self.log.append(entry)
        tqdm.write(json.dumps(entry))
        state = {
            "model": self.teacher.model.state_dict(),
            "adam": self.adam.state_dict(),
            "done": self.done,
            "log": self.log,
            "running": self.running,
        }
        save_checkpoint(self.run / "checkpoint.pt", state)


def main() -> None:
    """Tune where that has not been done, and print how good it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path, help="the pretrained checkpoint's folder")
    parser.add_argument("--file", type=Path, help="a text<TAB>label file instead of the test part")
    parser.add_argument("--run", type=Path, default=RUN)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    done = (args.run / "model" / "model.safetensors").exists()
    teacher = (
        Pretrained(args.run / "model") if done else Tuning(args.base, args.run, args.seed).whole()
    )
    reviews = evaluate.read_file(args.file) if args.file else corpus.split()["test"]
    found = teacher.labels([r.text for r in reviews])
    right = sum(f == r.label for f, r in zip(found, reviews, strict=True))
    low, high = evaluate.interval(right, len(reviews))
    print(f"accuracy {right / len(reviews):.4f} (95 % interval {low:.3f} to {high:.3f})")
    evaluate.print_confusion(reviews, found)
    if not args.file:
        evaluate.print_groups(reviews, found)


if __name__ == "__main__":
    main()
