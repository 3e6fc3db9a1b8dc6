"""Lesson 07: exercises and self-test."""

import math
from collections.abc import Callable
from typing import Any

from course_utils.checks import Exercise, Question, Wrong
from course_utils.exercises import lesson_07_bill, returned


def _still_to_do(answer: Callable[[list[Any], dict[str, list[Any]]], Any]) -> str:
    """still_to_do(ids, progress): the ids that no booked file holds, in their order."""
    for ids, progress, right in (
        ([1, 2, 3, 4, 5], {"a.parquet": [2, 4]}, [1, 3, 5]),
        ([1, 2, 3, 4], {"a.parquet": [1], "b.pending.parquet": [2, 3]}, [2, 3, 4]),
        (["x7", "x2", "x9"], {"b.parquet": ["x9"], "a.parquet": ["x7"]}, ["x2"]),
        ([3, 1, 2], {}, [3, 1, 2]),
        ([1, 2], {"a.parquet": [2], "b.parquet": [1]}, []),
        ([1, 2], {"pending-orders.parquet": [1]}, [2]),  # a name that only looks like it
    ):
        given = ({name: list(held) for name, held in progress.items()}, list(ids))
        got = answer(given[1], given[0])
        told = f"For the ids {ids} and the files {progress} it returned {got!r}"
        if given != (progress, ids):
            raise Wrong(f"For the files {progress} it changes what it was given.")
        if isinstance(got, str | dict) or not hasattr(got, "__iter__"):
            raise Wrong(f"{told}: it should return a list of ids.")
        got = list(got)
        if got == right:
            continue
        booked = {one for held in progress.values() for one in held}
        if got == [one for one in ids if one not in booked] != right:
            raise Wrong(f"{told}. A pending file is only announced: a crash may have come between.")
        if len(got) == len(right) and set(got) == set(right):
            raise Wrong(f"{told}: the right ids, but not in the order in which they came.")
        if lost := [one for one in right if one not in got]:
            raise Wrong(f"{told}: {lost[0]!r} would never be labelled.")
        raise Wrong(f"{told}: {[one for one in got if one not in right][0]!r} is done already.")
    return "With that, a job can be started again as often as it takes."


def _problem(answer: Callable[[Any, int], Any]) -> str:
    """problem(cell, most): None, or a text that begins with the kind of problem."""
    for cell, most, kind in (
        ("Good soup.", 100, None),
        (b"Good soup.", 100, None),
        ("Très déçu.".encode(), 100, None),
        ("", 100, "empty"),
        (" \n\t ", 100, "empty"),
        (b"  ", 100, "empty"),
        (None, 100, "empty"),
        ("no " * 40, 100, "too long"),
        ("a" * 100, 100, None),
        (b"b" * 101, 100, "too long"),
        ("é" * 60, 100, None),  # 120 bytes, but 60 characters
        ("é".encode() * 60, 100, None),
        ("Très déçu.".encode("latin-1"), 100, "not text"),
        (4.5, 100, "not text"),
        (0, 100, "not text"),
        (["Good", "soup"], 100, "not text"),
        ("0", 100, None),
    ):
        shown = repr(cell) if len(repr(cell)) < 40 else f"{repr(cell)[:20]}…"
        try:
            got = answer(cell, most)
        except Exception as error:
            raise Wrong(
                f"For {shown} it stops with {type(error).__name__}: {error}. With it the job would."
            ) from None
        if got is not None and not isinstance(got, str):
            raise Wrong(f"For {shown} it returned {got!r}: return None, or a text that says why.")
        if kind is None and got is not None:
            raise Wrong(f"For {shown} it returned {got!r}, but that row can be labelled.")
        if kind is not None and not (got or "").startswith(kind):
            raise Wrong(f"For {shown}, at most {most}, it returned {got!r}: it is {kind!r}.")
    return "A row can now say what is wrong with it, and cannot stop a job."


def _workers(answer: Callable[..., Any]) -> str:
    """workers_needed(batches, seconds, startup, each, shared): the fewest workers, or None."""
    for batches, seconds, startup, each, shared in (
        (100, 70, 20, 1.0, 0.1),  # 2 workers exactly
        (100, 69, 20, 1.0, 0.1),  # 3
        (1000, 3600, 10, 0.5, 0.01),  # 1
        (10_000, 200, 30, 2.0, 0.01),  # 118
        (10_000, 120, 30, 2.0, 0.01),  # the shared part alone takes 100 s of 90
        (100, 20, 20, 1.0, 0.0),  # nothing is left after the start-up
        (100, 10, 20, 1.0, 0.0),
        (50, 100, 10, 9.0, 1.8),  # 5, and the shared part takes the whole time
    ):
        left = seconds - startup
        possible = left > 0 and batches * shared <= left
        right = max(1, math.ceil(batches * each / left - 1e-9)) if possible else None
        got = answer(batches, seconds, startup, each, shared)
        told = (
            f"For {batches:,} batches in {seconds} s, start-up {startup} s, {each:g} s a batch and "
            f"{shared:g} s shared it returned {got!r}"
        )
        if got is not None:
            otherwise = f"{told}: it should return a number of workers, or None."
            got = returned.number(got, otherwise)
        if got is None and right is None:
            continue
        if right is None:
            raise Wrong(
                f"{told}, but no number of workers is enough: {max(0, left)} s are left after the "
                f"start-up, and the shared part alone takes {batches * shared:g} s."
            )
        if got is None:
            raise Wrong(f"{told}, but {right} can do it.")
        if got % 1:
            raise Wrong(f"{told}: there are only whole workers.")
        if got < 1:
            raise Wrong(f"{told}: there has to be one.")
        if got < right:
            took = startup + max(batches * each / got, batches * shared)
            raise Wrong(f"{told}: they would need {took:.1f} s.")
        if got > right:
            raise Wrong(f"{told}: fewer are enough.")
    return "Past each / shared workers, more of them change nothing."


EXERCISES = {
    "07.1": Exercise(
        "what is still to do",
        _still_to_do,
        (
            "Which of the files can you rely on? Put together the ids of those alone.",
            'name.endswith(".pending.parquet") tells an announcement from a booked file.',
            "done = set(); done.update(held) for every booked file; then [i for i in ids if i "
            "not in done].",
        ),
    ),
    "07.2": Exercise(
        "what is wrong with a row",
        _problem,
        (
            "Bytes have to become text before anything can be said of them, and that can fail.",
            "cell.decode() raises UnicodeDecodeError; isinstance(cell, str) tells text from all "
            "else; None is empty.",
            "In this order: None, bytes to text, is it str, is anything left after strip(), len().",
        ),
    ),
    "07.3": Exercise(
        "workers for a deadline",
        _workers,
        (
            "How many seconds are left for the work once everything has started?",
            "Two conditions: batches * shared has to fit into them, and batches * each / workers.",
            "max(1, math.ceil(batches * each / left)), and None where left is not above 0 or the "
            "shared part is longer than left.",
        ),
    ),
    **lesson_07_bill.EXERCISES,
}

QUIZ: list[Question] = [
    Question(
        "Beyond some size, larger batches bring no more speed. Why?",
        (
            (
                "The model reads only so many rows at a time and cuts a longer batch inside.",
                "It reads as many as you give it, as long as the memory holds them.",
            ),
            (
                "What is done once for a batch is small by then beside the work of its rows.",
                "That is the part that batches share; a row's work is not, and padding adds to it.",
            ),
            (
                "Padding makes the longer batch wrong.",
                "Padding costs some time, but nothing becomes wrong by it.",
            ),
        ),
        1,
    ),
    Question(
        "A worker is killed. What happens to the rows it had?",
        (
            (
                "They are lost for this run, and are found and labelled by the next.",
                "No next run was needed here.",
            ),
            (
                "Another worker gets the whole piece, and it is written once.",
                "A piece counts once its result is there; until then it can be given away again.",
            ),
            (
                "Each is labelled twice, and the copies are removed at the end.",
                "A result that never arrived cannot be written.",
            ),
        ),
        1,
    ),
    Question(
        "After a crash, progress/ holds a file that ends in .pending.parquet. Its rows are …",
        (
            (
                "… to be labelled again, and what their label file holds is thrown away.",
                "Announced is not booked: the label file may be missing, half, or whole.",
            ),
            (
                "… done, for their ids stand in the book already, and need no second look.",
                "They were announced before anything was written.",
            ),
            ("… lost.", "The reviews are still in the input, with their ids."),
        ),
        0,
    ),
    Question(
        "Why does a row that cannot be labelled get a column `problem`, and no exception?",
        (
            (
                "Exceptions are slow in Python.",
                "Slower than a column, but that is not what would hurt after nine hours.",
            ),
            (
                "A Parquet file cannot hold exceptions.",
                "It can hold their text; the column does so.",
            ),
            (
                "One bad row in a million must not stop the others, and must be found again.",
                "Both at once: the job goes on, and the problems can be counted and mended.",
            ),
        ),
        2,
    ),
    Question(
        "100 workers are 40 times as fast as one. Where did the rest go?",
        (
            (
                "Into what is not divided among them: starting, and handing out the pieces.",
                "That part bounds every job, however many machines you rent.",
            ),
            ("Into the network, which is always the bound.", "It may be; here there was none."),
            (
                "Nowhere: 40 times is what 100 cores give.",
                "Independent rows could be 100 times as fast, were nothing shared.",
            ),
        ),
        0,
    ),
]
