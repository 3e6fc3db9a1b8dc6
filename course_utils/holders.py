"""Who still holds a tensor: the variable a learner can delete, or the library that keeps it.

Walks from names down to tensors, not from tensors up: a name is what the learner can act on.
"""

import functools
import gc
import re
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from typing import Any

from course_utils import tensors

# Not followed: from a module, a class or a function's globals everything reaches everything.
_ENDS = (types.ModuleType, type, types.FrameType, types.CodeType, types.BuiltinFunctionType, str, bytes)
_LIMIT = 300_000
_ROOTS = ("<frozen", *(sysconfig.get_path(k) for k in ("stdlib", "purelib", "platlib")))
_CACHE = type(functools.cache(len))


def _below(thing: Any) -> Iterable[Any]:
    """What `thing` refers to, as far as it can be said to hold it."""
    if isinstance(thing, types.FunctionType):
        return [cell.cell_contents for cell in thing.__closure__ or () if _filled(cell)]
    return [x for x in gc.get_referents(thing) if not isinstance(x, _ENDS)]


def _filled(cell: types.CellType) -> bool:
    """Whether a closure's cell holds something yet."""
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def reached(thing: Any, wanted: dict[int, tensors.Storage], depth: int = 1000) -> set[int]:
    """Addresses out of `wanted` whose tensors can be reached from `thing`."""
    found: set[int] = set()
    seen = {id(wanted)}
    level = [] if isinstance(thing, _ENDS) else [thing]
    while level and depth >= 0 and len(seen) < _LIMIT:
        below = []
        for item in level:
            if id(item) in seen:
                continue
            seen.add(id(item))
            if hasattr(type(item), "untyped_storage"):
                place = tensors.storage_of(item)
                if place and place[0] in wanted:
                    found.add(place[0])
            below += _below(item)
        level, depth = below, depth - 1
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
                where = frame.f_code.co_name
                inner += [(f"{k} in {where}()", v) for k, v in frame.f_locals.items()]
        frame = frame.f_back  # type: ignore[assignment]
    yield from inner
    yield from list(vars(sys.modules["__main__"]).items())


@functools.cache
def _is_library(path: str) -> bool:
    """Whether a source file belongs to an installed library or to Python itself."""
    return path.startswith(_ROOTS) or "-packages" in path


def _module_globals(library: bool) -> Iterator[tuple[str, Any]]:
    """(name, value) of the globals of imported modules, of libraries or of the rest."""
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if not isinstance(module, types.ModuleType) or not path:
            continue
        variables = vars(module)
        # a library that makes tensors has imported torch; the others need no look
        if variables is vars(sys.modules["__main__"]) or (library and "torch" not in variables):
            continue
        if _is_library(path) == library:
            for key, value in list(variables.items()):
                yield f"{key} in {name}", value


def name(wanted: dict[int, tensors.Storage]) -> list[tuple[str, int]]:
    """(who, bytes) for the storages in `wanted`, largest first; several may hold the same one."""
    bytes_by_name: dict[str, int] = {}
    covered: set[int] = set()
    for label, value in [*_variables(), *_module_globals(library=False)]:
        # a notebook keeps what a cell showed under _, __, _5 and in Out
        if re.fullmatch(r"_+\d*|_i+\d*|_oh|_dh|In", label):
            continue
        found = reached(value, wanted)
        if found:
            bytes_by_name.setdefault(label, sum(wanted[a].nbytes for a in found))
            covered |= found
    for address in wanted.keys() - covered:
        label = _kind_of_holder(wanted[address])
        bytes_by_name[label] = bytes_by_name.get(label, 0) + wanted[address].nbytes
    return sorted(bytes_by_name.items(), key=lambda pair: (-pair[1], pair[0]))


def _kind_of_holder(storage: tensors.Storage) -> str:
    """What kind of object refers to a tensor that no name leads to."""
    alive = [t for t in (r() for r in storage.tensors) if t is not None]
    for holder in gc.get_referrers(*alive):
        if isinstance(holder, dict):
            owners = [o for o in gc.get_referrers(holder) if getattr(o, "__dict__", None) is holder]
            if owners:
                return f"an object of type {type(owners[0]).__name__} that has no name"
        elif holder is not alive and not isinstance(holder, types.FrameType):
            return f"a {type(holder).__name__} that has no name"
    return "something outside Python"


def kept_by_libraries(wanted: dict[int, tensors.Storage]) -> set[int]:
    """Addresses of small tables that a library keeps for good, like bitsandbytes' NF4 levels.

    Only what a module's globals hold directly, in a plain container or in a function's cache
    counts, and only up to 4 KiB apiece: a model in some library's list is not a table.
    """
    small = {a: s for a, s in wanted.items() if s.nbytes <= 4096}
    if not small:
        return set()
    plain = (dict, list, tuple, set, _CACHE)
    tops = [
        value
        for _, value in _module_globals(library=True)
        if type(value) in plain or hasattr(type(value), "untyped_storage")
    ]
    return reached(tops, small, depth=4)


def forget_displayed() -> None:
    """Drop what a notebook and Python keep by themselves: shown tensors and models, last error."""
    for key in ("last_traceback", "last_value", "last_exc", "last_type"):
        if hasattr(sys, key):
            delattr(sys, key)
    main = vars(sys.modules["__main__"])
    out = main.get("Out")
    if not isinstance(out, dict):
        return
    dropped = [k for k, v in out.items() if _shows_tensors(v)]
    for key in dropped:
        value = out.pop(key)
        for label in [f"_{key}", "_", "__", "___"]:
            if main.get(label) is value:
                main[label] = ""


def _shows_tensors(value: Any) -> bool:
    """Whether a displayed result is a model, a tensor, or a plain container of tensors."""
    if hasattr(type(value), "untyped_storage") or hasattr(type(value), "named_parameters"):
        return True
    items = list(value.values()) if isinstance(value, dict) else value
    if isinstance(items, (list, tuple)):
        return any(hasattr(type(item), "untyped_storage") for item in items)
    return False
