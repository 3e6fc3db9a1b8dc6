"""The learner's own file of progress: in their home folder, shared by every copy of the course.

It knows no exercise: keys and counts are all that it keeps.
"""

import copy
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from course_utils import machine, settings

FILE = ".open_llms_progress.json"
EMPTY: dict[str, Any] = {"solved": [], "hints": {}, "tries": {}}


def progress_file() -> Path:
    """Where progress is kept: `COURSE_PROGRESS`, or a file in the learner's home folder.

    Raises:
        OSError: this account has no home folder, or a device or folder is in the file's place.
    """
    try:
        path = Path(os.environ.get("COURSE_PROGRESS") or f"~/{FILE}").expanduser().resolve()
    except RuntimeError as error:
        raise OSError(0, f"{error} Set COURSE_PROGRESS to a file.") from None
    if path.exists() and not path.is_file():
        raise OSError(0, f"{short(path)} is no ordinary file")
    return path


def load(path: Path) -> tuple[dict[str, Any], bool]:
    """(what the file holds, whether all of it was understood); raises OSError.

    `solved` is a list of keys, `hints` and `tries` count by key; what else is in it belongs to
    another version of the course and is handed back as it is.
    """
    found: Any = None if path.exists() else {}
    if found is None:
        with suppress(ValueError, RecursionError):
            found = json.loads(path.read_text(encoding="utf-8"))
    kept = {**EMPTY, **(found if isinstance(found, dict) else {})}
    fine: dict[str, Any] = {
        "solved": [key for key in _as(list, kept["solved"]) if isinstance(key, str)]
    }
    for name in ("hints", "tries"):
        counts = _as(dict, kept[name]).items()
        fine[name] = {key: n for key, n in counts if isinstance(n, int) and n >= 0}
    return kept | fine, isinstance(found, dict) and all(kept[k] == v for k, v in fine.items())


def _as(kind: type, value: Any) -> Any:
    """The value if it is of this kind, else an empty one."""
    return value if type(value) is kind else kind()


def read() -> dict[str, Any]:
    """The learner's progress; empty where there is none or the file is not readable.

    Also empty while a program runs the notebook: what is stored must not depend on who ran it.
    """
    if not settings.static():
        with suppress(OSError):
            return load(progress_file())[0]
    return copy.deepcopy(EMPTY)


def change(edit: Callable[[dict[str, Any]], Any]) -> None:
    """Apply `edit` to what the learner's file holds; whole or not at all. Not while static.

    Several notebooks may do so at once: each waits for its turn and reads what the others wrote.
    What cannot be read is kept beside it under another name.
    """
    if settings.static():
        return
    import filelock

    try:
        path = progress_file()
        with filelock.FileLock(path.with_name(f"{path.name}.lock"), timeout=20):
            kept, understood = load(path)
            if not understood:
                _set_aside(path)
            edit(kept)
            with machine.whole(path) as new:
                new.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    except (OSError, NotImplementedError) as error:  # a time-out is an OSError too
        why = getattr(error, "strerror", None) or str(error)
        print(f"(Progress could not be saved: {why}. Your answers are not affected.)")


def _set_aside(path: Path) -> None:
    """Keep a copy of a file that is not understood, under a name that is still free."""
    content = path.read_bytes()
    if not content.strip():
        return
    n = 1
    while (aside := path.with_name(f"{path.name}.unreadable-{n}")).exists():
        n += 1
    aside.write_bytes(content)
    print(f"(Not all of your progress could be read. The file as it was: {short(aside)})")


def short(path: Path) -> str:
    """A path as a learner writes it, from ~ where it is below the home folder."""
    with suppress(ValueError, RuntimeError):
        return f"~/{path.relative_to(Path.home()).as_posix()}"
    return str(path)
