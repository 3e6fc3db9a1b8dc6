"""What Pocket Llama is trained from: tokenizer, dialogues and judged texts of one corpus.

What takes minutes to make is kept in the run folder, under the fingerprint of the corpus.
"""

import argparse
import itertools
import pickle
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pocket_training import batches, corpus, evaluate, pretrained, teacher, writing
from pocket_training import tokenizer as tokenizers
from pocket_training.batches import Batch, Beginnings, Encoder
from pocket_training.dialogues import Drawer, tokenizer_texts


@dataclass
class Materials:
    """What a training is made from; `settings` tell it from other trainings."""

    settings: dict
    folder: Path  # the tokenizer's
    tokenizer: Tokenizer
    drawer: Drawer
    encoder: Encoder
    judged: list[teacher.Judged]
    author: float  # the author's share in a review's target, beside the teacher's
    whole: float  # the share of reviews among the judged texts; the rest are pieces and more text
    validation: list[corpus.Review]

    @property
    def label_ids(self) -> list[int]:
        """The first token of each label, in the order of `LABELS`."""
        names = [f" {name}" for name in evaluate.LABELS]
        return [self.tokenizer.encode(n, add_special_tokens=False).ids[0] for n in names]

    def steps(
        self, seed: str, tokens: int, prompts: float, dialogues: int, spoken: int, copied: int
    ) -> Iterator[list[Beginnings | Batch]]:
        """What one step after the other sees: judged texts, batches of dialogues, one of copies.

        `tokens` are of the judged texts, `spoken` of a batch of dialogues, `copied` of the copies,
        0 for none.
        """
        texts = batches.beginning_batches(
            self.judged, self.encoder, seed, tokens, prompts, self.author, self.whole
        )
        talks = batches.dialogue_batches(self.drawer, self.encoder, seed, spoken)
        copies = batches.copy_batches(self.drawer, self.encoder, seed, copied)
        for batch in texts:
            twice = itertools.islice(copies, copied > 0)
            yield [batch, *itertools.islice(talks, dialogues), *twice]


class Ahead(IterableDataset):
    """The steps that `make` gives for a seed, made by other processes while a GPU computes.

    Each of the `workers` draws from a seed of its own, and they take turns, so that the order is
    decided; `done` steps are left out.
    """

    def __init__(self, make: Callable[[str], Iterator], seed: str, workers: int, done: int) -> None:
        """Nothing is made before the first step is asked for."""
        self.make, self.seed, self.workers, self.done = make, seed, workers, done

    def __iter__(self) -> Iterator[list[Beginnings | Batch]]:
        """One worker's share of the steps."""
        worker = get_worker_info()
        mine = (self.done + (worker.id if worker else 0)) % self.workers
        skipped = -(-(self.done - mine) // self.workers)
        return itertools.islice(self.make(f"{self.seed}:{mine}"), skipped, None)

    def loaded(self) -> Iterator[list[Beginnings | Batch]]:
        """The steps, as the workers have them ready; with one worker, made here."""
        if self.workers == 1:
            return iter(self)
        return iter(DataLoader(self, batch_size=None, num_workers=self.workers))


def cached(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` returns, kept in a file of the run folder: whole or not at all."""
    if not path.exists():
        found = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".new").write_bytes(pickle.dumps(found))
        path.with_suffix(".new").replace(path)
    return pickle.loads(path.read_bytes())


def fingerprint(path: Path) -> str:
    """What tells a file's content from another's."""
    return f"{zlib.crc32(path.read_bytes()):08x}"


def prepare(args: argparse.Namespace) -> Materials:
    """Split the corpus, train the tokenizer, let the teachers judge; kept for the next time.

    A checkpoint to start from brings its own tokenizer.
    """
    parts = corpus.split()
    digest = f"{zlib.crc32(repr(parts['train']).encode()):08x}"  # a run belongs to its corpus
    folder = args.start or args.run / f"tokenizer-{digest}"
    if not (folder / "tokenizer.json").exists():
        tokenizers.save(tokenizers.train(tokenizer_texts()), folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    settings = {k: str(v) for k, v in vars(args).items() if k not in ("run", "result", "compile")}
    judge, judges = teacher.judged, ""
    if args.teacher:
        judge = partial(pretrained.judged, args.teacher)
        judges = f"-{fingerprint(args.teacher / 'model.safetensors')}"
    judged = cached(
        args.run / f"judged-{digest}-{args.seed}{judges}.pickle",
        lambda: judge(parts["train"], args.seed),
    )
    if args.more:
        texts = [(text, "") for _, text in writing.read(args.more)]
        judges += f"-{fingerprint(args.more)}"
        judged += cached(
            args.run / f"judged-more{judges}.pickle",
            lambda: pretrained.judged_texts(args.teacher, texts),
        )
    return Materials(
        settings | {"corpus": digest + judges},
        folder,
        tokenizer,
        Drawer(parts["train"], args.explained),
        Encoder(tokenizer),
        judged,
        args.author,
        args.whole,
        parts["validation"],
    )
