"""Runs one handed-in notebook: for each exercise's cell two locked processes, and their verdict.

The learner's process runs the cell, the judge's holds the checks; both are copies of this one (a
fork), so that the libraries are loaded once. Each has lost by then, for good, whatever could harm
(`sandbox`); both end with their exercise.
"""

import gc
import json
import os
import random
import select
import signal
import socket
import sys
import sysconfig
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from course_staff.collecting import answering, judging, sandbox, slicing
from course_staff.collecting.wire import Gone, Wire

SECONDS = 20  # of processor time for one exercise's cell, and of idling
MEMORY = 2 * 2**30  # bytes a cell may take beside what is loaded
SAID = 2**18  # bytes of verdicts or notices that are read
PACKAGE = Path(sys.modules["course_utils"].__file__ or "").parent


@dataclass
class Row:
    """What became of one exercise of one notebook."""

    exercise: str
    solved: bool | None = None  # None: left as it was
    message: str = ""
    noticed: list[str] = field(default_factory=list)


@cache
def _loaded() -> tuple[Any, Any]:
    """Pocket Llama and its tokenizer, loaded as the lessons do it, on one thread."""
    import torch

    torch.set_num_threads(1)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from course_utils.models import POCKET

    tokenizer = AutoTokenizer.from_pretrained(POCKET)
    model = AutoModelForCausalLM.from_pretrained(POCKET, dtype="float16", device_map="auto")
    return model, tokenizer


def complete(messages: Any) -> str:
    """The lessons' `complete`, for the checks that ask a model."""
    from course_utils.sentiment import local_complete

    return local_complete(*_loaded())(messages)


def warm_up() -> None:
    """Load once what every copy of this process needs; none of the exercises' right answers."""
    import openai  # noqa: F401

    from course_utils import explorers, plots  # noqa: F401
    from course_utils.chat import llama2_format  # noqa: F401
    from course_utils.memory import fit, predict  # noqa: F401
    from course_utils.sentiment import messages

    complete(messages("Good."))
    gc.freeze()  # the copies share this memory: nothing in it is to be looked through and rewritten


def readable(exercises: bool) -> list[Path]:
    """What a locked process may read: Python, its packages, the course; the checks if asked."""
    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths |= {path for path in sys.path if path.endswith(("-packages", ".zip", "lib-dynload"))}
    paths |= {"/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo", "/dev/urandom"}
    paths |= {"/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu", "/etc/localtime"}
    own = (path for path in PACKAGE.iterdir() if exercises or path.name != "exercises")
    return [*map(Path, sorted(paths)), *own]


def _locked(work: Callable[[], None], keep: list[int], seconds: int, exercises: bool) -> int:
    """A copy of this process that is locked in and does `work`; returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        nothing = os.open(os.devnull, os.O_RDWR)
        for n in range(3):
            os.dup2(nothing, n)
        low = 3
        for kept in [*sorted(keep), 65536]:
            os.closerange(low, kept)
            low = kept + 1
        random.seed(0)
        if "torch" in sys.modules:
            sys.modules["torch"].manual_seed(0)
        sandbox.limit(seconds, MEMORY)
        sandbox.lock(readable(exercises), [PACKAGE])
        work()
    finally:
        _end()


def lockable() -> bool:
    """Whether this system locks a process in: tried on a copy of this one."""
    if not sandbox.supported():
        return False
    child = os.fork()
    if not child:
        try:
            sandbox.lock(readable(exercises=True), [PACKAGE])
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def _end() -> NoReturn:
    """End this copy at once, without what the original would do at its end."""
    os._exit(0)


def _learner(end: socket.socket, source: str, notices: int, files: list[Path]) -> None:
    """What the learner's process does."""
    seen: set[str] = set()

    def notice(text: str) -> None:
        if text not in seen:
            seen.add(text)
            os.write(notices, (text + "\n").encode())

    answering.watch(files, notice)
    answerer = answering.Answerer(Wire(end))
    with suppress(Gone):
        answerer.serve(answerer.run(source, notice))


def _judge(end: socket.socket, keys: list[str], verdicts: int) -> None:
    """What the judge's process does."""
    found = judging.Judge(Wire(end), complete).verdicts(keys)
    os.write(verdicts, json.dumps(found).encode())


def _busy(children: list[int]) -> float:
    """Seconds in which these processes ran or waited for a core (the kernel's schedstat)."""
    total = 0
    for child in children:
        for task in Path(f"/proc/{child}/task").glob("*/schedstat"):
            with suppress(OSError, ValueError):
                ran, waited, _ = map(int, task.read_text().split())
                total += ran + waited
    return total / 1e9


def _all_of(pipes: list[int], children: list[int], seconds: float) -> list[bytes]:
    """What comes out of pipes until the first of them ends; what is too much ends it too.

    So does idling: `seconds` in which none of the `children` ran or would have. How long they take
    on a busy machine is nobody's fault; that they do not run for ever is seen to by `limit`.
    """
    found = {pipe: b"" for pipe in pipes}
    began = time.monotonic()
    while time.monotonic() - began < seconds + _busy(children):
        for pipe in select.select(pipes, [], [], 0.2)[0]:
            part = os.read(pipe, 65536)
            found[pipe] += part
            if not part:
                if pipe == pipes[0]:
                    return list(found.values())
                pipes = pipes[:1]
        if any(len(said) > SAID for said in found.values()):
            break
    return list(found.values())


def _gather(children: list[int]) -> bool:
    """End the copies; whether the kernel had ended one, as it does at a limit."""
    killed = False
    for child in children:
        done, status = os.waitpid(child, os.WNOHANG)
        if not done:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        elif os.WIFSIGNALED(status):
            killed |= os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXCPU)
    return killed


def judged(program: slicing.Program, seconds: int = SECONDS) -> list[Row]:
    """Run one exercise's cell in one locked process and check it from another."""
    if program.problem:
        return [Row(key, False, program.problem) for key in program.keys]
    said, noticed, killed = _heard(program, seconds)
    try:
        rows = [Row(key, solved, message) for key, solved, message in json.loads(said)]
    except (ValueError, TypeError):
        rows = [Row(key, False, judging.ENDED) for key in program.keys]
    for row in rows:
        row.noticed = noticed
        if killed or not said:
            row.solved = False
            row.message = f"it did not end within {seconds} s of work, or took too much memory"
    return rows


def _heard(program: slicing.Program, seconds: int) -> tuple[bytes, list[str], bool]:
    """Let the two processes talk: (the verdicts, what was noticed, whether one was stopped)."""
    mine, theirs = socket.socketpair()
    verdict_out, verdict_in = os.pipe()
    notice_out, notice_in = os.pipe()
    files = readable(exercises=False)

    def judge() -> None:
        _judge(mine, program.keys, verdict_in)

    def learner() -> None:
        _learner(theirs, program.source, notice_in, files)

    children = [
        _locked(judge, [mine.fileno(), verdict_in], seconds, exercises=True),
        _locked(learner, [theirs.fileno(), notice_in], seconds, exercises=False),
    ]
    mine.close()
    theirs.close()
    os.close(verdict_in)
    os.close(notice_in)
    try:
        said, notices = _all_of([verdict_out, notice_out], children, seconds)
    finally:
        killed = _gather(children)
    notices += _rest(notice_out)
    os.close(verdict_out)
    os.close(notice_out)
    lines = notices.decode(errors="replace").splitlines()[:20]
    return said, sorted({line[:80] for line in lines if line}), killed


def _rest(pipe: int) -> bytes:
    """What is left in a pipe that nobody writes into any more."""
    found = b""
    while len(found) < SAID and (part := os.read(pipe, 65536)):
        found += part
    return found


def sliced(raw: bytes, seconds: int = SECONDS) -> tuple[list[slicing.Program], set[str]]:
    """(programs, all exercises) of a notebook; its text is read in a locked process too.

    Raises:
        ValueError: it is no notebook, or one that cannot be read in the time.
    """
    out, into = os.pipe()

    def work() -> None:
        try:
            cells = slicing.code_cells(raw)
            found = [asdict(one) for one in slicing.programs(cells)]
            said = json.dumps([found, sorted(slicing.keys(cells))])
        except (ValueError, RecursionError, MemoryError) as error:
            said = json.dumps(str(error) or type(error).__name__)
        data = said.encode()
        while data:
            data = data[os.write(into, data) :]

    child = _locked(work, [into], seconds, exercises=False)
    os.close(into)
    (said,) = _all_of([out], [child], seconds)
    os.close(out)
    _gather([child])
    try:
        found = json.loads(said)
    except ValueError:
        raise ValueError("It cannot be read.") from None
    if isinstance(found, str):
        raise ValueError(found)
    return [slicing.Program(**one) for one in found[0]], set(found[1])


def notebook_rows(raw: bytes, seconds: int = SECONDS) -> list[Row]:
    """One row for each exercise in a notebook, in the order of their numbers.

    Raises:
        ValueError: it is no notebook.
    """
    programs, keys = sliced(raw, seconds)
    best: dict[str, Row] = {key: Row(key, None, "not answered") for key in keys}
    noticed: dict[str, set[str]] = {}
    for program in programs:
        for row in judged(program, seconds):
            noticed.setdefault(row.exercise, set()).update(row.noticed)
            before = best.get(row.exercise)
            # the last answer counts, unless an earlier one was right
            if before is None or not (before.solved or row.solved is None):
                best[row.exercise] = row
    for key, row in best.items():
        row.noticed = sorted(noticed.get(key, set()))
    return [best[key] for key in sorted(best)]
