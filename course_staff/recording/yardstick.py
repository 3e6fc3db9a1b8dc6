"""Lesson 06's model on other people's reviews: `python -m course_staff.recording.yardstick FILE`.

The file has one review a line, a tab, and 1 (positive) or 0 (negative). The lesson's own cells load
the model, calibrate it and train it; then every way is scored on the file, of which nothing is
learned. Nothing is stored.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

from course_staff.notebooks import store
from course_utils import models, settings
from course_utils.sentiment import Score

CELLS = (
    *("load", "inside", "exam", "wordings", "asker", "ask", "bound-ids", "bound", "allowed"),
    *("calibrate", "sure", "sure-plot", "tune-data", "tune-loss", "tune-odds", "tune-fit"),
)


def reviews(path: Path, count: int | None = None) -> list[tuple[str, str]]:
    """(text, label) of the first so many lines."""
    lines = path.read_text(encoding="utf-8").splitlines()[:count]
    pairs = [line.rsplit("\t", 1) for line in lines if line.strip()]
    return [(text, "Positive" if number.strip() == "1" else "Negative") for text, number in pairs]


def lesson_names(lesson: Path) -> dict[str, Any]:
    """What the lesson's cells define once they have run, the training included."""
    from course_utils.guesses import guess, guessed

    names: dict[str, Any] = {"time": time, "models": models, "guess": guess, "guessed": guessed}
    cells = {cell.id: cell.source for cell in store.read(lesson).cells}
    for cell in CELLS:
        print(f"-- {cell}", flush=True)
        exec(cells[cell], names)
    return names


def scores(names: dict[str, Any], examples: list[tuple[str, str]]) -> dict[str, Score]:
    """Every way of the lesson on these examples."""
    texts = [text for text, _ in examples]
    question, line = names["WORDINGS"][names["chosen"]], names["thresholds"]["40 labelled"]
    asked = names["quick_odds"](names["model"], texts, question)
    brief = names["quick_odds"](names["model"], texts)
    tuned = names["quick_odds"](names["tuned"], texts)
    score, labels = names["score_of"], names["labels_from"]
    return {
        "bounded, the question": score(labels(asked), examples),
        "calibrated with 40 reviews": score(labels(asked, line), examples),
        "bounded, the short prompt": score(labels(brief), examples),
        "tuned, the short prompt": score(labels(tuned), examples),
    }


def main() -> None:
    """Print the scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, help="only the first so many")
    options = parser.parse_args()
    os.environ |= {"COURSE_MODEL": settings.SMALL, "COURSE_STATIC": "1"}
    settings.prepare()
    (lesson,) = store.FOLDER.glob("06_*.ipynb")
    names = lesson_names(lesson)
    for way, score in scores(names, reviews(options.file, options.count)).items():
        print(f"{way:28} {score}", flush=True)


if __name__ == "__main__":
    main()
