"""How far the corpus carries, judged in seconds by a bag-of-words logistic regression.

Word 1–2-grams and character 2–5-grams, TF-IDF, positive against negative. It is a cheap stand-in
for a training run of hours: watch it while the corpus grows.

    python -m pocket_training.proxy                      on the test part
    python -m pocket_training.proxy --file reviews.tsv   on any text<TAB>label file
"""

import argparse
import random
from pathlib import Path

from pocket_training import corpus
from pocket_training.evaluate import read_file

SIZES = (1000, 2000, 4000, 8000, 16000, 32000)


def accuracy(train: list[corpus.Review], test: list[corpus.Review]) -> float:
    """Train the bag of words on `train`, return its accuracy on `test` (both without Neutral)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_union

    bags = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\b\w[\w']*\b"),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
    )
    rows = bags.fit_transform([r.text for r in train])
    classifier = LogisticRegression(C=6, max_iter=300).fit(rows, [r.label for r in train])
    return float(classifier.score(bags.transform([r.text for r in test]), [r.label for r in test]))


def main() -> None:
    """Print the curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path)
    args = parser.parse_args()
    parts = corpus.split()
    test = read_file(args.file) if args.file else parts["test"]
    test = [r for r in test if r.label != "Neutral"]
    train = [r for r in parts["train"] if r.label != "Neutral"]
    random.Random(0).shuffle(train)
    print(f"training reviews  accuracy on {len(test)}")
    for size in (*(s for s in SIZES if s < len(train)), len(train)):
        print(f"{size:16}  {accuracy(train[:size], test):.3f}")


if __name__ == "__main__":
    main()
