"""The small data files that come with the course, each with its source and date."""

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "data"


def reviews(count: int | None = None, name: str = "reviews.tsv") -> list[tuple[str, str]]:
    """(review, label) pairs that Pocket Llama was not trained on, in a fixed mixed order.

    Args:
        count: the first so many; all by default.
        name: a `text<TAB>label` file in the package's data folder.
    """
    lines = (FOLDER / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.rsplit("\t", 1) for line in lines if line and not line.startswith("#")]
    return [(text, label) for text, label in pairs][:count]


@cache
def table(name: str) -> Any:
    """A JSON file of the data folder, like `table("prices")`."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
