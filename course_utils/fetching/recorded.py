"""A lesson's recorded run, cell by cell, where its model cannot be had.

`lesson_model` makes a lesson use SmolLM2. Where that is not on this machine, every cell that stands
as it was recorded is answered with what it gave then; any other, like an exercise, runs. The
recordings are written by `course_staff.recording.lesson` from executed notebooks. This module knows
no lesson.
"""

import hashlib
import json
import os
from typing import Any

from course_utils import data, models, settings
from course_utils.errors import CourseError
from course_utils.fetching.get import get

_playing: dict[str, Any] = {}


def lesson_model(lesson: str, fetch: bool = False) -> str:
    """Make a lesson use SmolLM2 unless `COURSE_MODEL` names another; else play its recorded run.

    Args:
        lesson: its number, like "06".
        fetch: whether to fetch SmolLM2 where it is not on this machine.

    Returns:
        Which model speaks; or why it cannot, and whose run is shown instead.
    """
    _stop()
    if not os.environ.get("COURSE_MODEL", "").strip():
        os.environ["COURSE_MODEL"] = settings.SMALL
    settings.prepare()
    if settings.tier() == "pocket":
        return f"COURSE_MODEL=pocket: {_play(lesson)}"
    if settings.tier() != "small" or models.is_here(settings.SMALL):
        return models.said_by()
    if not fetch:
        return (
            f"SmolLM2 is not on this machine: {_play(lesson)}\n"
            "To run the lesson for real, set FETCH = True and run this cell again."
        )
    try:
        get()
    except CourseError as error:
        return f"{error.what} {_play(lesson)}\n{error.next_step}"
    return models.said_by()


def digest(source: str) -> str:
    """What stands for a cell's code, whatever blank lines are around it."""
    return hashlib.sha256(source.strip().encode()).hexdigest()[:16]


def _play(lesson: str) -> str:
    """Answer unchanged cells from the recording from now on; returns whose run that is."""
    from IPython import get_ipython

    path = data.FOLDER / "recorded" / f"lesson_{lesson}.json"
    _playing.update(json.loads(path.read_text(encoding="utf-8")))
    if shell := get_ipython():
        shell.input_transformers_cleanup.append(_replaced)
        shell.set_custom_exc((NameError,), _explain)
    device = _playing["device"]["name"]
    return f"you see a run recorded on {_playing['date']} ({device}), cell by cell."


def _stop() -> None:
    """Run cells for real again."""
    from IPython import get_ipython

    _playing.clear()
    shell = get_ipython()
    if shell and _replaced in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(_replaced)
        shell.set_custom_exc((), None)


def _replaced(lines: list[str]) -> list[str]:
    """A cell's lines; of one that was recorded, the line that shows what it gave."""
    key = digest("".join(lines))
    if key not in _playing.get("cells", {}):
        return lines
    return [f"from course_utils.fetching import recorded; recorded.show({key!r})\n"]


def show(key: str) -> None:
    """Show what the cell with this digest gave when it was recorded."""
    from IPython.display import display

    print("(recorded)")
    for output in _playing["cells"][key]["outputs"]:
        if "text" in output:  # nobody had guessed there
            print(output["text"].replace(" You made no guess.", ""), end="")
        else:
            display(output["data"], raw=True)


def _explain(
    _shell: Any, _kind: type, error: Exception, _trace: Any, tb_offset: Any = None
) -> None:
    """Say why a changed cell finds nothing that the cells above it would have made."""
    print(
        f"{error}: no cell above has run, what you see is the recorded run.\n"
        "Next: fetch the model in section 1. A cell that you changed shows its recording again "
        "when you take the change back."
    )
