"""More text for a teacher to judge: sentences that a small pretrained model writes after ours.

    python -m pocket_training.writing BASE FILE --count 50000      a text a line; resumes

The model (SmolLM2-135M, say) sees four training reviews of a subject and the first words of a
fifth, and goes on. What it writes is no review that anybody meant, and it has no label of an
author's: a model that reads well enough has to judge it. It brings words that our reviews lack.

This module knows nothing of labels and of Pocket Llama.
"""

import argparse
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM

from pocket_training import corpus

WIDTH = 320  # texts written side by side
SHOWN = 4  # reviews in a prompt
LONGEST = 30  # tokens
HEAT, TOP_P, TOP_K = 0.9, 0.95, 200


class Writer:
    """A pretrained model that goes on with the beginnings of lines."""

    def __init__(self, base: Path) -> None:
        """Load the checkpoint in the folder `base`."""
        self.tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        self.model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        pieces = range(self.tokenizer.get_vocab_size())
        special = {0, 1, 2}
        self.ends = {i for i in pieces if "\n" in self.tokenizer.decode([i])} | special

    def ids(self, text: str) -> list[int]:
        """The text's tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    @torch.inference_mode()
    def lines(self, prompt: str, starts: list[str], generator: torch.Generator) -> list[str]:
        """The lines that follow `prompt` and begin with `starts`; those that end in time.

        The prompt is read once for all of them.
        """
        out = self.model(torch.tensor([self.ids(prompt)]), use_cache=True)
        cache = out.past_key_values
        cache.batch_repeat_interleave(len(starts))
        logits = out.logits[:, -1].expand(len(starts), -1)
        rows = [self.ids(start) for start in starts]
        given = [len(row) for row in rows]
        alive, whole = list(range(len(rows))), []
        for step in range(LONGEST):
            drawn = sampled(logits, generator)
            new = [rows[i][step] if step < given[i] else drawn[k] for k, i in enumerate(alive)]
            stay = [k for k, token in enumerate(new) if token not in self.ends]
            whole += [alive[k] for k, token in enumerate(new) if token in self.ends]
            if not stay:
                break
            for k in stay:
                if step >= given[alive[k]]:
                    rows[alive[k]].append(new[k])
            if len(stay) < len(new):
                cache.batch_select_indices(torch.tensor(stay))
            alive = [alive[k] for k in stay]
            ids = torch.tensor([[new[k]] for k in stay])
            logits = self.model(ids, past_key_values=cache, use_cache=True).logits[:, -1]
        return [self.tokenizer.decode(rows[i]).strip() for i in whole]


def sampled(logits: torch.Tensor, generator: torch.Generator) -> list[int]:
    """One token a row, drawn from the likeliest ones."""
    top, index = (logits.float() / HEAT).softmax(-1).topk(TOP_K)
    kept = top * (top.cumsum(-1) - top < TOP_P)
    return index.gather(1, torch.multinomial(kept, 1, generator=generator))[:, 0].tolist()


def written(writer: Writer, first: int) -> Iterator[list[str]]:
    """The texts of one round after the other, from round `first` on; a round decides its own."""
    reviews = corpus.split()["train"]
    by_subject: dict[str, list[corpus.Review]] = {}
    for review in reviews:
        by_subject.setdefault(review.subject, []).append(review)
    while True:
        rng = random.Random(f"writing:{first}")
        subject = rng.choice(reviews).subject
        shown = "".join(f"- {r.text}\n" for r in rng.sample(by_subject[subject], SHOWN))
        prompt = f"Reviews of {subject.replace('_', ' ')}:\n{shown}-"
        like = rng.choices(by_subject[subject], k=WIDTH)
        starts = [" " + " ".join(r.text.split()[: rng.choice([1, 2, 2, 3])]) for r in like]
        yield writer.lines(prompt, starts, torch.Generator().manual_seed(first))
        first += 1


def read(path: Path) -> list[tuple[int, str]]:
    """The texts of a file, each with the round it was written in."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(int(number), text) for number, text in (line.split("\t", 1) for line in lines)]


def arguments(description: str | None, count: int) -> argparse.Namespace:
    """The command line of those who make more text: `count` texts unless told otherwise."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("base", type=Path, help="the pretrained checkpoint's folder")
    parser.add_argument("file", type=Path, help="where the texts go, `round<TAB>text`")
    parser.add_argument("--count", type=int, default=count)
    return parser.parse_args()


def collect(file: Path, count: int, rounds: Callable[[int], Iterator[list[str]]]) -> None:
    """Let `rounds`, from a round's number on, make text until `file` holds `count` distinct ones.

    None of them is one of the corpus's. A file that is there already is gone on with.
    """
    known = {corpus.normal(r.text) for r in corpus.read()}
    first, held = 0, 0
    if file.exists():
        for number, text in read(file):
            known.add(corpus.normal(text))
            first, held = number + 1, held + 1
    bar = tqdm(initial=held, total=count, unit="text")
    for number, texts in enumerate(rounds(first), first):
        new = [t for t in texts if "\t" not in t and corpus.normal(t) not in known]
        new = list({corpus.normal(t): t for t in new if len(t.split()) > 1}.values())
        known.update(map(corpus.normal, new))
        with file.open("a", encoding="utf-8") as lines:
            lines.writelines(f"{number}\t{text}\n" for text in new)
        bar.update(len(new))
        if bar.n >= count:
            break
    bar.close()


def main() -> None:
    """Write after our reviews."""
    args = arguments(__doc__, 50_000)
    collect(args.file, args.count, partial(written, Writer(args.base)))


if __name__ == "__main__":
    main()
