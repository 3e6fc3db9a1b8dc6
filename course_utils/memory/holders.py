"""Who still holds a tensor: the variable a learner can delete, or the library that keeps it.

Walks from names down to tensors, not from tensors up: a name is what the learner can act on.
"""

import contextlib
import functools
import gc
import inspect
import re
import sys
import sysconfig
import traceback
import types
from collections.abc import Iterable, Iterator
from typing import Any

from course_utils.memory import tensors

# Not followed: from a module, a class or a function's globals everything reaches everything.
_ENDS = (types.ModuleType, type, types.FrameType, types.CodeType, str, bytes)
_LIMIT = 300_000
_ROOTS = ("<frozen", *(sysconfig.get_path(k) for k in ("stdlib", "purelib", "platlib")))


def _below(thing: Any) -> Iterable[Any]:
    """What `thing` refers to, as far as it can be said to hold it."""
    if isinstance(thing, types.FunctionType):
        return thing.__closure__ or ()
    return [x for x in gc.get_referents(thing) if not _is_end(type(x))]  # type: ignore[arg-type]


@functools.cache
def _is_end(kind: type) -> bool:
    """Whether objects of this type are not followed: the notebook's own shell is one of them."""
    if issubclass(kind, _ENDS) or kind.__module__.startswith(("IPython.", "ipykernel.")):
        return True
    # Colab's shell is a class of its own; through it everything in the notebook is reached
    return any(base.__module__ == "IPython.core.interactiveshell" for base in kind.__mro__)


def reached(thing: Any, wanted: dict[int, tensors.Storage]) -> set[int]:
    """Addresses out of `wanted` whose tensors can be reached from `thing`."""
    found: set[int] = set()
    seen = {id(wanted)}
    level = [] if _is_end(type(thing)) else [thing]  # type: ignore[arg-type]
    while level and len(seen) < _LIMIT:
        below: list[Any] = []
        for item in level:
            if id(item) in seen:
                continue
            seen.add(id(item))
            if hasattr(type(item), "untyped_storage"):
                place = tensors.storage_of(item)
                if place and place[0] in wanted:
                    found.add(place[0])
            below += _below(item)
        level = below
    return found


def _variables() -> Iterator[tuple[str, Any]]:
    """(name, value) of the notebook's or script's variables and of the functions now running."""
    frame = sys._getframe(1)
    inner: list[tuple[str, Any]] = []
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if not (module.startswith("course_utils.") or _is_library(frame.f_code.co_filename)):
            if frame.f_locals is frame.f_globals:
                yield from list(frame.f_globals.items())
            else:
                inner += [(f"{k} in {frame.f_code.co_name}()", v) for k, v in _locals(frame)]
        frame = frame.f_back  # type: ignore[assignment]
    yield from inner
    yield from list(vars(sys.modules["__main__"]).items())


def _locals(frame: types.FrameType) -> list[tuple[str, Any]]:
    """(name, value) of a function's variables."""
    values = frame.f_locals
    found = list(values.items())
    if isinstance(values, dict) and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        # a copy before Python 3.13, which would hold what we look for; of a class's body, or of
        # what exec runs, it is no copy
        values.clear()
    return found


@functools.cache
def _is_library(path: str) -> bool:
    """Whether a source file belongs to an installed library or to Python itself."""
    return path.startswith(_ROOTS) or "-packages" in path


def _module_globals() -> Iterator[tuple[str, Any]]:
    """(name, value) of the globals of imported modules, libraries left out."""
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if not isinstance(module, types.ModuleType) or not path or _is_library(path):
            continue
        variables = vars(module)
        if variables is not vars(sys.modules["__main__"]):
            yield from ((f"{key} in {name}", value) for key, value in list(variables.items()))


def named(wanted: dict[int, tensors.Storage]) -> tuple[list[tuple[str, int]], set[int]]:
    """Who holds the storages in `wanted`: ((name, bytes), largest first; addresses without a name).

    Several names may hold the same storage; each has to go.
    """
    by_name: dict[str, int] = {}
    covered: set[int] = set()
    for label, error in _kept_errors():
        found = set().union(*(_in_frame(frame, wanted) for frame in _frames(error)))
        if found:
            by_name[label] = sum(wanted[a].nbytes for a in found)
            covered |= found
    for label, value in [*_variables(), *_module_globals()]:
        # a notebook keeps what a cell showed under _, __, _5 and in Out
        if re.fullmatch(r"_+\d*|_i+\d*|_oh|_dh|In|__builtins__", label):
            continue
        found = reached(value, wanted)
        if found:
            by_name.setdefault(label, sum(wanted[a].nbytes for a in found))
            covered |= found
    return sorted(by_name.items(), key=lambda pair: (-pair[1], pair[0])), wanted.keys() - covered


def by_kind(nameless: dict[int, tensors.Storage]) -> list[tuple[str, int]]:
    """(kind of object, bytes) for storages that no name leads to."""
    kinds: dict[str, int] = {}
    for storage in nameless.values():
        kind = _kind_of_holder(storage)
        kinds[kind] = kinds.get(kind, 0) + storage.nbytes
    return sorted(kinds.items(), key=lambda pair: -pair[1])


def _kind_of_holder(storage: tensors.Storage) -> str:
    """What kind of object refers to a tensor."""
    alive = [t for t in (r() for r in storage.tensors) if t is not None]
    for holder in gc.get_referrers(*alive):
        if holder is alive or isinstance(holder, types.FrameType):
            continue
        if not isinstance(holder, dict):
            return f"a {type(holder).__name__} without a name"
        owners = [o for o in gc.get_referrers(holder) if getattr(o, "__dict__", None) is holder]
        if owners:
            return f"a {type(owners[0]).__name__} without a name"
    return "something outside Python"


def _frames(error: BaseException | None) -> Iterator[types.FrameType]:
    """The frames in an error's traceback, and in those of the errors that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield from (frame for frame, _ in traceback.walk_tb(error.__traceback__))
        error = error.__cause__ or error.__context__


def _in_frame(frame: types.FrameType, wanted: dict[int, tensors.Storage]) -> set[int]:
    """Addresses out of `wanted` that a function's variables lead to; a cell's own are the names."""
    if frame.f_locals is frame.f_globals:
        return set()
    return set().union(*(reached(value, wanted) for _, value in _locals(frame)))


def _kept_errors() -> Iterator[tuple[str, BaseException]]:
    """(name, error) of the errors that the learner keeps in a variable, or in a list in one."""
    for label, value in _variables():
        inside = value if isinstance(value, (list, tuple, set)) else [value]
        for thing in value.values() if isinstance(value, dict) else inside:
            if isinstance(thing, BaseException):
                yield label, thing


def clear_finished_frames(wanted: dict[int, tensors.Storage]) -> None:
    """Drop the variables of ended functions whose frame a library's stored error keeps.

    A library that notes an ImportError while it is imported from inside `from_pretrained` keeps
    that call's variables, the model among them, for good. Only frames that hold something of
    `wanted` are cleared, and none of an error that the learner keeps: it is named as a holder.
    """
    resumable = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
    kept = {id(frame) for _, error in _kept_errors() for frame in _frames(error)}
    for thing in gc.get_objects():
        if type(thing) is not types.FrameType or thing.f_code.co_flags & resumable:
            continue
        if id(thing) not in kept and _in_frame(thing, wanted):
            with contextlib.suppress(RuntimeError):  # it still runs
                thing.clear()


def forget_displayed(wanted: dict[int, tensors.Storage]) -> None:
    """Drop what a notebook keeps by itself of `wanted`: shown results (Out, _), the last error.

    What leads to none of these tensors stays: `Out`, and the error that `%debug` looks into.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    errors = [getattr(sys, "last_exc", None), getattr(sys, "last_value", None)]
    if shell is not None:
        errors.append(getattr(shell.InteractiveTB, "evalue", None))
    if any(_in_frame(frame, wanted) for error in errors for frame in _frames(error)):
        for key in ("last_traceback", "last_value", "last_exc", "last_type"):
            if hasattr(sys, key):
                delattr(sys, key)
        if shell is not None:
            for key in ("tb", "evalue", "etype"):
                setattr(shell.InteractiveTB, key, None)
    if shell is None:
        return
    names = shell.user_ns
    shown = {f"_{n}": n for n in names.get("_oh", {})}
    for key in ("_", "__", "___", *shown):
        # IPython remembers a result in three places: for the learner, as hidden, in its hook
        if not any(reached(ns.get(key), wanted) for ns in (names, shell.user_ns_hidden)):
            continue
        if key in shown:
            names.pop(key, None)
            shell.user_ns_hidden.pop(key, None)
            names["_oh"].pop(shown[key], None)
        else:
            shell.push({key: ""}, interactive=False)
            setattr(shell.displayhook, key, "")
