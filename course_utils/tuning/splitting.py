"""Dividing labelled examples into training, validation and test, the same way in every run."""

import zlib
from collections import defaultdict

from course_utils.errors import CourseError
from course_utils.tuning.reading import SHOWN_ROWS, Examples

FEWEST = 10  # examples of each label: with fewer, a test part says nothing


def split(examples: Examples) -> tuple[Examples, Examples, Examples]:
    """(train, validation, test): 70, 10 and 20 % of the examples of each label.

    Which example goes where depends on its text alone, so it is the same in every run. It does not
    look for near-twins: where your texts repeat each other, split them by hand.

    Raises:
        CourseError: no examples, or fewer than ten of a label.
    """
    by_label = defaultdict(list)
    for text, label in examples:
        by_label[label].append((text, label))
    few = [f"{label!r} has {len(some)}" for label, some in by_label.items() if len(some) < FEWEST]
    if few or not by_label:
        raise CourseError(
            f"There are too few examples to hold some back for a test: {FEWEST} of each label.",
            f"{', '.join(few[:SHOWN_ROWS]) or 'There are none'}.",
            "Label more texts, or leave that label out.",
        )
    parts: tuple[Examples, Examples, Examples] = ([], [], [])
    for some in by_label.values():
        mixed = sorted(some, key=_draw)
        first, second = round(0.7 * len(mixed)), round(0.8 * len(mixed))
        for part, piece in zip(
            parts, (mixed[:first], mixed[first:second], mixed[second:]), strict=True
        ):
            part.extend(piece)
    train, validation, test = (sorted(part, key=_draw) for part in parts)
    return train, validation, test


def _draw(example: tuple[str, str]) -> int:
    """A number that is the same in every run and has nothing to do with the text's meaning."""
    return zlib.crc32(example[0].encode(errors="replace")[::-1])
