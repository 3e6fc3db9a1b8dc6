"""Runs one function in another Python process: other packages, its own settings, its own folder.

Quantization libraries change the process that imports them, and AutoGPTQ needs packages that the
course cannot have. So their calls are written as an ordinary function, in a module or a notebook
cell, and its source is run elsewhere. The function imports what it uses, takes and returns what
JSON can hold, and uses nothing from around it.

This module knows nothing about quantization.
"""

import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_utils.errors import FULL, CourseError, ended_by
from course_utils.settings import static

# Its parent's end closes the child's stdin: then it stops and takes its folder with it.
MAIN = """

if __name__ == "__main__":
    import json, os, shutil, sys, threading

    def _end_with_parent(folder=os.getcwd()):
        sys.stdin.read()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=_end_with_parent, daemon=True).start()
    with open("arguments.json", encoding="utf-8") as file:
        arguments = json.load(file)
    CALLS
    with open("result.json", "w", encoding="utf-8") as file:
        json.dump(result, file)
    sys.stdout.flush()
    os._exit(0)  # the libraries' own threads would hold the exit up
"""
# Settings that belong to the parent's Python and would mislead another one.
PARENTS_OWN = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "MPLBACKEND")
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")
ERROR = re.compile(r"[\w.]*(?:Error|Exception|Interrupt|Exit)\b|Ended by|Killed by|It ended")


class ChildFailed(Exception):
    """The function did not come to its end.

    Attributes:
        log: the last lines the child printed, its traceback among them.
    """

    def __init__(self, log: Sequence[str]) -> None:
        """Keep the log; the message is the last error in it, or else its last line."""
        self.log = [line for line in log if line.strip()]
        errors = [line for line in self.log if ERROR.match(line)]
        super().__init__((errors or self.log or ["It said nothing."])[-1].strip()[:300])

    @property
    def disk_full(self) -> bool:
        """Whether a file could not be written for lack of room."""
        return any(FULL.search(line) for line in self.log)


@dataclass(frozen=True)
class Home:
    """Where a child runs.

    Attributes:
        python: the Python to run; this one by default.
        env: settings on top of this process's environment.
        first: called in the child before the function, to get things ready.
    """

    python: str | Path = sys.executable
    env: dict[str, str] = field(default_factory=dict)
    first: Callable[[], None] | None = None


def folder_beside(out: Path) -> Path:
    """A new hidden folder next to `out`: on the same disk, so that a rename moves what is in it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))


@contextmanager
def new_folder(out: Path, source: Path, replaceable: Callable[[Path], bool]) -> Iterator[Path]:
    """An empty folder that becomes `out` when the block ends well, and vanishes when it does not.

    It lies beside `out`, in a hidden folder of its own that may hold temporary files too.

    Raises:
        CourseError: `out` is `source`, or holds something that is not `replaceable`.
    """
    if out == source or out in source.parents:
        raise CourseError(
            f"{out.name!r} would be replaced while it is read.", "", "Write into another folder."
        )
    if out.exists() and not replaceable(out):
        raise CourseError(
            f"There is something else at {out.name!r} already.",
            "Only a quantized checkpoint from before would be replaced.",
            "Write into another folder.",
        )
    work = folder_beside(out)
    try:
        made = work / out.name
        made.mkdir()
        yield made
        if out.exists():
            shutil.rmtree(out)
        made.rename(out)
    finally:
        remove(work)


def source_of(function: Callable[..., Any]) -> str:
    """The source of a function, from a module or a notebook cell.

    Raises:
        CourseError: it is no plain function, or its source is not to be had.
    """
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        source = ""
    if not source.startswith("def "):
        raise CourseError(
            f"{getattr(function, '__name__', function)!r} cannot be run in another process.",
            "Its source is what is sent there, so it has to be a plain function with `def`.",
            "Write it as `def name(...):` in a cell of its own.",
        )
    return source


def run(
    functions: Sequence[Callable[..., Any]],
    arguments: dict[str, Any],
    folder: Path,
    home: Home = Home(),
    doing: str = "working",
) -> Any:
    """Call the last function with `arguments` in a process of its own; return what it returns.

    Args:
        functions: self-contained (see the top of this file); the last one may call the others.
        arguments: what JSON can hold. Paths must be absolute: the child works in `folder`.
        folder: an existing folder for the child alone. Removing it is the caller's.
        home: the Python to run it with, its settings, and what comes first.
        doing: what the progress line says, before the last line printed that names a layer.

    Raises:
        ChildFailed: it raised or was killed.
        CourseError: its source cannot be had.
    """
    first = [home.first] if home.first else []
    calls = [f"{one.__name__}()" for one in first]
    calls.append(f"result = {functions[-1].__name__}(**arguments)")
    task = "from __future__ import annotations\n\n"
    task += "\n\n".join(source_of(function) for function in [*first, *functions])
    task += MAIN.replace("CALLS", "\n    ".join(calls))
    (folder / "task.py").write_text(task, encoding="utf-8")
    (folder / "arguments.json").write_text(json.dumps(arguments), encoding="utf-8")
    log: deque[str] = deque(maxlen=200)
    process = _start(home, folder)
    try:
        _follow(process, log, doing)
        code = process.wait()
    finally:
        _end(process)
    try:
        if code == 0:
            return json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        log.append("It ended without a result.")
    if how := ended_by(code):
        log.append(how)
    raise ChildFailed(log)


def _start(home: Home, folder: Path) -> "subprocess.Popen[str]":
    """Start the child in its folder, in its own session: an interrupt is passed on by us alone."""
    kept = {k: v for k, v in os.environ.items() if k not in PARENTS_OWN}
    kept |= {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": "ignore"}
    windows = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    return subprocess.Popen(
        [str(home.python), "-P", "task.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        cwd=folder,
        env={**kept, **home.env},
        start_new_session=not windows,
        creationflags=windows,
    )


def _follow(process: "subprocess.Popen[str]", log: "deque[str]", doing: str) -> None:
    """Keep what the child prints and move the progress line, until its output ends."""
    from tqdm.auto import tqdm

    assert process.stdout
    form = {"bar_format": "{desc} {elapsed}", "mininterval": 0.5}
    with tqdm(desc=doing, leave=False, disable=static(), **form) as bar:
        for line in process.stdout:
            line = ANSI.sub("", line).rstrip()
            log.append(line)
            if "layer" in line.lower():
                bar.set_description_str(f"{doing}: {line.strip()[:60]}", refresh=False)
            bar.update()


def _end(process: "subprocess.Popen[str]") -> None:
    """End the child and what it started, if it still runs."""
    if process.poll() is None:
        with suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with suppress(OSError):
                pipe.close()


def remove(folder: Path) -> None:
    """Remove a folder, whatever is in it; a file that Windows still holds open is left."""
    shutil.rmtree(folder, ignore_errors=True)
