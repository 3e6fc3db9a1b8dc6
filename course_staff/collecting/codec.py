"""What passes between a learner's process and the checks: plain values, and nothing that can act.

From the learner's side values come as JSON with a tag on each, and are made anew here: numbers,
texts, lists, tensors. An object of any other kind arrives as something that only has a name. A
function stays where it is; its number arrives.
"""

import base64
import builtins
import json
import math
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any

MOST = 8 * 2**20  # bytes of one message
LONGEST = 20_000  # elements taken from an iterator, and elements of a tensor times 50
PLACE = re.compile(r" at 0x[0-9a-f]+")
Json = dict[str, Any]


class Unreadable(Exception):
    """What came is not what `encode` makes."""


def encode(value: Any, function: Callable[[Any], Json]) -> Any:
    """A value as JSON. `function(f)` is what stands for a function.

    Raises:
        RecursionError: a list that holds itself.
    """
    if value is None or type(value) in (bool, str):
        return value
    if type(value) is int and abs(value) < 10**300:
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"number": "float", "text": repr(value)}
    return _of_library(value) or _container(value, function) or _other(value, function)


def _of_library(value: Any) -> Json | None:
    """PyTorch's and numpy's; they are looked up, so that nothing is imported for a number."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    most = 50 * LONGEST
    if torch is not None and isinstance(value, torch.Tensor):
        if value.numel() > most or value.is_complex():
            return None
        kind = str(value.dtype).removeprefix("torch.")
        return {"tensor": kind, "values": value.detach().cpu().tolist()}
    if numpy is None or not isinstance(value, numpy.ndarray | numpy.generic):
        return None
    if value.size > most or value.dtype.kind not in "biuf":
        return None
    return {"array": str(value.dtype), "values": value.tolist()}


def _container(value: Any, function: Callable[[Any], Json]) -> Json | None:
    """Lists, tuples, sets, dictionaries, bytes; others that can be gone through, as their parts."""
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        parts = [[encode(k, function), encode(v, function)] for k, v in value.items()]
        return {"dict": parts}
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [encode(one, function) for one in value]}
    if hasattr(value, "__iter__") and not isinstance(value, str | type):
        parts = list(islice(iter(value), LONGEST))
        return {"iterator": [encode(one, function) for one in parts], "name": type(value).__name__}
    return None


def _other(value: Any, function: Callable[[Any], Json]) -> Json:
    """The dots, functions, numbers and texts of other kinds; of the rest what it looks like."""
    if value is ...:
        return {"dots": True}
    if callable(value):
        return function(value)
    kinds: tuple[Any, ...] = (bool, int, float, complex, Fraction, Decimal, str)
    for kind in kinds:
        if isinstance(value, kind):
            with suppress(ValueError):  # more digits than Python writes
                return {"number": kind.__name__, "text": str.__str__(value) if kind is str
                        else str(kind(value))}  # fmt: skip
    try:
        look = PLACE.sub("", repr(value))[:200]
    except Exception as error:  # a stranger's __repr__, or a number without end
        look = f"<{type(value).__name__}: {type(error).__name__}>"
    return {"object": type(value).__name__, "text": look}


NUMBERS: dict[str, Callable[[str], Any]] = {
    "float": float,
    "int": int,
    "bool": lambda text: text == "True",
    "complex": complex,
    "Fraction": Fraction,
    "Decimal": Decimal,
    "str": str,
}


def decode(found: Any, function: Callable[[Json], Any]) -> Any:
    """A value made anew from JSON. `function(json)` makes what stands in for a function.

    Raises:
        Unreadable: it is nothing that `encode` writes.
    """
    try:
        return _decoded(found, function)
    except RecursionError:
        raise Unreadable("too deep") from None
    except Exception as error:  # a stranger wrote it: whatever it is, it is not readable
        raise Unreadable(type(error).__name__) from None


def _decoded(found: Any, function: Callable[[Json], Any]) -> Any:
    """`decode` without its errors."""
    if not isinstance(found, dict):
        if found is None or isinstance(found, bool | int | float | str):
            return found
        raise Unreadable("no tag")
    tag = next(iter(found))
    content = found[tag]
    if tag in ("list", "tuple", "set", "frozenset"):
        return getattr(builtins, tag)(_decoded(one, function) for one in content)
    if tag == "dict":
        return {_decoded(k, function): _decoded(v, function) for k, v in content}
    if tag == "iterator":
        return (one for one in [_decoded(one, function) for one in content])
    if tag == "bytes":
        return base64.b64decode(content)
    if tag == "number":
        return NUMBERS[content](found["text"])
    if tag == "dots":
        return ...
    if tag == "tensor":
        import torch

        kind = getattr(torch, content)
        return torch.tensor(found["values"], dtype=kind)
    if tag == "array":
        import numpy

        made = numpy.array(found["values"], dtype=numpy.dtype(content))
        return made if made.ndim else made[()]
    if tag == "function":
        return function(found)
    if tag == "object":
        return unknown(found)
    raise Unreadable("an unknown tag")


def unknown(found: Json) -> Any:
    """An object of a kind that is not known here: it has a name and a look, and can do nothing."""
    name = "".join(c for c in str(found["object"])[:60] if c.isalnum() or c == "_") or "object"
    text = PLACE.sub("", str(found.get("text", "")))[:200]
    return type(name, (), {"__repr__": lambda self: text})()


def packed(message: Any) -> bytes:
    """A message as bytes.

    Raises:
        Unreadable: it is too long to be sent.
    """
    try:
        found = json.dumps(message).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise Unreadable(type(error).__name__) from None
    if len(found) > MOST:
        raise Unreadable("too long")
    return found
