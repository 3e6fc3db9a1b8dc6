"""The hand-written reviews: reading, families of near-twins, and the split into parts.

A corpus file is `corpus/<subject>.tsv`, one text a line: `code<TAB>text`. The code is `+`, `-`
or `=` (positive, negative, neutral) and at most one letter for the phenomenon that makes the
text what it is; the words that decide the label stand in one pair of square brackets. The files
under `corpus/voice/` have neither letters nor brackets.

    python -m pocket_training.corpus            counts by label, subject, phenomenon and part
    python -m pocket_training.corpus FILE       write the lessons' held-out reviews to FILE

This module knows nothing of chat formats, tokens or models.
"""

import re
import sys
import zlib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"
LABELS = {"+": "Positive", "-": "Negative", "=": "Neutral"}
PHENOMENA = {
    "": "plain",
    "n": "negation",
    "c": "contrast",
    "s": "sarcasm",
    "u": "understatement",
    "l": "slang",
    "a": "advice",
    "m": "comparison",
    "q": "numbers and stars",
    "i": "implied by facts",
    "f": "critic's prose",
}
LINE = re.compile(r"([+=-])([a-z]?)\t(.+)")
TWIN_COSINE = 0.65  # two texts at least this alike (see `families`) are one family


@dataclass(frozen=True)
class Review:
    """One labelled text; `phrase` is the part that decides its label ("" where unmarked)."""

    text: str
    label: str
    subject: str
    phenomenon: str
    phrase: str


def normal(text: str) -> str:
    """The text with case, punctuation and spacing taken away: equal means duplicate."""
    return re.sub(r"\W+", " ", text.lower()).strip()


def parse(line: str, subject: str) -> Review:
    """Read one corpus line. Raises `ValueError` that shows the line when it is malformed."""
    found = LINE.fullmatch(line.rstrip("\n"))
    if not found or found[2] not in PHENOMENA:
        raise ValueError(f"{subject}: not a corpus line: {line!r}")
    phrase = re.search(r"\[([^\[\]]+)\]", found[3])
    return Review(
        text=re.sub(r"\s+", " ", found[3].replace("[", "").replace("]", "")).strip(),
        label=LABELS[found[1]],
        subject=subject,
        phenomenon=PHENOMENA[found[2]],
        phrase=phrase[1].strip() if phrase else "",
    )


@cache
def read(folder: Path = FOLDER) -> tuple[Review, ...]:
    """Every distinct review under `folder`, in a fixed order; of duplicates the first stays."""
    reviews: dict[str, Review] = {}
    for path in sorted(folder.rglob("*.tsv")):
        for line in path.read_text(encoding="utf-8").splitlines():
            review = parse(line, path.stem)
            reviews.setdefault(normal(review.text), review)
    return tuple(reviews.values())


def families(texts: list[str]) -> list[int]:
    """Number each text by its family: near-twins, and twins of twins, share a number.

    Twins are texts whose bags of words and word pairs have a cosine of at least `TWIN_COSINE`.
    All pairs are compared, but only those in full that share one of their rare words: a text of n
    words must share TWIN_COSINE² · n of them with a twin, so at least one of all but the most
    common TWIN_COSINE² · n - 1 (prefix filtering, Bayardo and others, WWW 2007).
    """
    import numpy as np
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\b\w+\b", binary=True)
    bags = csr_array(counter.fit_transform(normal(t) for t in texts), dtype=np.float32)
    sizes = np.diff(bags.indptr)
    owner = np.repeat(np.arange(len(texts)), sizes)
    rarest_first = np.lexsort((bags.sum(0)[bags.indices], owner))
    rank = np.arange(len(owner)) - np.repeat(bags.indptr[:-1], sizes)
    rare = rarest_first[rank <= (sizes - np.ceil(TWIN_COSINE**2 * sizes - 1e-6))[owner]]
    ones = np.ones(len(rare), dtype=np.float32)
    rare_bags = csr_array((ones, (owner[rare], bags.indices[rare])), shape=bags.shape)
    by_word = rare_bags.T.tocsr()

    pairs = []
    for start in range(0, len(texts), 1000):
        block = (rare_bags[start : start + 1000] @ by_word).tocoo()
        one, other = block.row + start, block.col
        small, large = np.minimum(sizes[one], sizes[other]), np.maximum(sizes[one], sizes[other])
        like = (one < other) & (small >= TWIN_COSINE**2 * large - 1e-6)
        one, other = one[like], other[like]
        shared = bags[one].multiply(bags[other]).sum(1)
        twins = shared >= (TWIN_COSINE - 1e-6) * np.sqrt(sizes[one] * sizes[other].astype(float))
        pairs.append((one[twins], other[twins]))
    ends = tuple(np.concatenate(side) for side in zip(*pairs, strict=True))
    shape = (len(texts), len(texts))
    graph = csr_array((np.ones(len(ends[0])), ends), shape=shape)
    return connected_components(graph, directed=False)[1].tolist()


@cache
def split() -> dict[str, list[Review]]:
    """The corpus in three parts: `train`, `validation` (4 %) and `test` (8 %).

    A family goes to one part as a whole. Families of more than six stay in training, since they
    would weigh too much in a test set.
    """
    reviews = read()
    numbers = families([r.text for r in reviews])
    size = Counter(numbers)
    first: dict[int, str] = {}
    parts: dict[str, list[Review]] = {"train": [], "validation": [], "test": []}
    for review, number in zip(reviews, numbers, strict=True):
        seed = first.setdefault(number, normal(review.text))
        draw = zlib.crc32(seed.encode()) % 100
        held_out = "test" if draw < 8 else "validation" if draw < 12 else "train"
        parts[held_out if size[number] <= 6 else "train"].append(review)
    return parts


def held_out_reviews(count: int) -> list[Review]:
    """Reviews of the test part for the lessons, in a mixed order that is always the same.

    Of at most 30 words and without tabs, so that they read well in a table.
    """
    reviews = [r for r in split()["test"] if len(r.text.split()) <= 30]
    return sorted(reviews, key=lambda r: zlib.crc32(r.text.encode()[::-1]))[:count]


def export(path: Path, count: int = 400) -> None:
    """Write held-out reviews as `text<TAB>label` lines for the lessons."""
    lines = [f"{r.text}\t{r.label}\n" for r in held_out_reviews(count)]
    path.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Print what the corpus holds; with a path, write the lessons' reviews there."""
    if len(sys.argv) > 1:
        export(Path(sys.argv[1]))
        return
    reviews = read()
    print(f"{len(reviews)} distinct reviews")
    for name in ("label", "phenomenon", "subject"):
        counts = Counter(getattr(r, name) for r in reviews)
        print(f"\nby {name}: " + ", ".join(f"{k} {n}" for k, n in counts.most_common()))
    print("\nby part: " + ", ".join(f"{k} {len(v)}" for k, v in split().items()))


if __name__ == "__main__":
    main()
