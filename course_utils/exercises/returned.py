"""What learners' functions return, of whichever library, as plain numbers and lists."""

from collections.abc import Iterator
from typing import Any

from course_utils.checks import Wrong


def number(got: Any, otherwise: str) -> float:
    """`got` as a number, from wherever it comes; raises `Wrong(otherwise)` where it is none.

    A text, True and False are none, and neither is a tensor of several.
    """
    try:
        if isinstance(got, str | bytes | bool) or "bool" in str(getattr(got, "dtype", "")):
            raise TypeError
        return float(got)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise Wrong(otherwise) from None


def number_for(asked: str, got: Any) -> float:
    """`got` as a number; the message says what was asked, like "For rank 4", and what came."""
    return number(got, f"{asked} it gives {got!r}, which is no number.")


def lists(got: Any) -> Any:
    """`got` with every tensor, array, tuple and generator in it turned into lists."""
    if hasattr(got, "tolist"):
        return got.tolist()
    return [lists(one) for one in got] if isinstance(got, list | tuple | Iterator) else got


def ids(got: Any, otherwise: str) -> list[int]:
    """`got` as a list of token ids; raises `Wrong(otherwise)` where it is none."""
    try:
        numbers = [number(one, otherwise) for one in lists(got)]
    except TypeError:
        raise Wrong(otherwise) from None
    if any(one % 1 for one in numbers):
        raise Wrong(otherwise)
    return [int(one) for one in numbers]
