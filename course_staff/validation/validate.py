"""Whether every notebook still runs and still shows what is stored in it: `validate(paths)`.

    python -m course_staff validate [NOTEBOOK or FOLDER…] [--report FOLDER]

Each notebook is executed in a process of its own (`cells`, which lets nbval compare), two at a
time, in the pocket tier; the stored file is read for what can be wrong without running it
(`notebooks.checks`); time and memory are held against its card. The verdict is a plain dict,
written as HTML and JSON by `report`.
"""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from course_staff.notebooks import checks as notebook_checks
from course_staff.notebooks import executing, store
from course_utils import machine
from course_utils.errors import CourseError, ended_by

Json = dict[str, Any]
AT_ONCE = 2
SLOWER = 2.0  # a notebook may take this many times its card: two run at once, machines differ
KINDS = {
    "changed": "shows something else",
    "stopped": "stops with an error",
    "lost": "gave no answer: its kernel ended, or took too long",
}
SHOWN = (
    *("torch", "transformers", "tokenizers", "huggingface_hub", "accelerate", "bitsandbytes"),
    *("peft", "trl", "datasets", "openai", "numpy", "ipykernel", "ipython", "ipywidgets"),
)


def found(arguments: Sequence[Path]) -> list[Path]:
    """The notebooks meant by files and folders; all lessons and solutions where none is named.

    Raises:
        CourseError: a name is no notebook, or there is none.
    """
    if not arguments and store.every():
        return store.every()
    paths = []
    for given in arguments:
        if given.is_dir():
            inside = sorted(given.rglob("*.ipynb"))
            paths += [path for path in inside if ".ipynb_checkpoints" not in path.parts]
        elif given.suffix == ".ipynb" and given.is_file():
            paths.append(given)
        else:
            raise CourseError(
                f"{given} is neither a notebook nor a folder.",
                "Nothing of that name is here." if not given.exists() else "",
                "Give the path of an .ipynb file, or of a folder with some.",
            )
    if not paths:
        raise CourseError(
            "There is no notebook to validate.",
            "None is in the folders named, or the course was installed without its notebooks.",
            "Run the command in a clone of the repository, or name a notebook.",
        )
    return paths


def name_of(path: Path) -> str:
    """A notebook's name in the report: its key in the course, else its path as it was given."""
    return store.key(path) if path.resolve() in store.every() else path.as_posix()


def stored_problems(path: Path) -> list[str]:
    """What is wrong with the stored file. A copy outside the course need not have its cards."""
    try:
        if path.resolve() in store.every():
            return notebook_checks.problems(path)
        return notebook_checks.copy_faults(store.read(path))
    except CourseError as error:
        return [str(error)]


def over_card(card: Json, seconds: float, peak_bytes: int, slower: float = SLOWER) -> list[str]:
    """Where a run took more than the notebook's card says, one sentence each.

    Args:
        card: the notebook's `course` metadata.
        seconds: wall clock.
        peak_bytes: resident memory.
        slower: how many times the card's minutes are still fine.
    """
    pocket = card.get("pocket", {})
    minutes, gib = seconds / 60, peak_bytes / 2**30
    lines = []
    if minutes > slower * pocket.get("run_minutes", minutes):
        lines.append(f"took {minutes:.1f} min, its card says {pocket['run_minutes']:g}")
    if gib > pocket.get("memory_gib", gib):
        lines.append(f"took {gib:.2f} GiB, its card says {pocket['memory_gib']:g}")
    return lines


def _lines(process: "subprocess.Popen[str]") -> Iterator[Json]:
    """The JSON lines a process writes, as they come."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            yield json.loads(line)


def executed(path: Path, env: Mapping[str, str], kernel: str | None, tick: Callable) -> Json:
    """What `validate_cells` says of one notebook; `tick()` is called after every cell."""
    command = [sys.executable, "-m", "course_staff.validation.cells", str(path.resolve())]
    process = subprocess.Popen(
        [*command, *([kernel] if kernel else [])],
        env={**env, "PYTHONUTF8": "1"},
        cwd=store.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    result: Json | None = None
    with process, ThreadPoolExecutor(1) as reader:
        assert process.stderr is not None
        said = reader.submit(process.stderr.read)
        try:
            for line in _lines(process):
                if "cell" in line:
                    tick()
                result = line.get("result")
        except BaseException:
            process.kill()
            raise
    if result is None:
        last = (said.result().strip().splitlines() or ["it said nothing"])[-1]
        how = ended_by(process.returncode) or f"Exit code {process.returncode}: {last}"
        broken = f"the process that ran it ended. {how}"
        result = {"cells": [], "broken": [broken], "seconds": 0.0, "peak_bytes": 0}
    return result


def verdict(path: Path, problems: list[str], ran: Json, slower: float = SLOWER) -> Json:
    """One notebook's part of the report.

    Args:
        path: the notebook.
        problems: what is wrong with the stored file.
        ran: what `executed` returned.
        slower: how many times the minutes of its card it may take.
    """
    try:
        card = store.read(path).metadata.get("course", {})
    except CourseError:  # said already among the problems
        card = {}
    changed = [cell for cell in ran["cells"] if "kind" in cell]
    over = over_card(card, ran["seconds"], ran["peak_bytes"], slower)
    problems = problems + ran["broken"] + over
    return {
        "notebook": name_of(path),
        "passed": not (problems or changed),
        "cells": len(ran["cells"]),
        "changed": changed,
        "problems": problems,
        "minutes": round(ran["seconds"] / 60, 2),
        "peak_gib": round(ran["peak_bytes"] / 2**30, 2),
        "card": {key: card.get("pocket", {}).get(key) for key in ("run_minutes", "memory_gib")},
    }


def _size(path: Path) -> tuple[float, int]:
    """(minutes on the card, code cells) of a notebook; nothing where it cannot be read."""
    try:
        notebook = store.read(path)
    except CourseError:
        return 0.0, 0
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    return notebook.metadata.get("course", {}).get("pocket", {}).get("run_minutes", 0.1), cells


def run(
    paths: Sequence[Path],
    problems: Callable[[Path], list[str]] = stored_problems,
    kernel: str | None = None,
    at_once: int = AT_ONCE,
    slower: float = SLOWER,
) -> list[Json]:
    """Execute and compare notebooks, with a progress bar.

    Args:
        paths: the notebooks.
        problems: what is wrong with a stored file, one sentence each.
        kernel: the kernel's name; None for the running Python.
        at_once: how many run side by side; they share the cores.
        slower: how many times the minutes on its card a notebook may take.

    Returns:
        One verdict for each path, in the same order.
    """
    from tqdm.auto import tqdm

    threads = max(1, machine.cores() // at_once)
    full = {**executing.environment(), "OMP_NUM_THREADS": str(threads)}
    sizes = {path: _size(path) for path in paths}
    longest_first = sorted(set(paths), key=lambda path: -sizes[path][0])
    with (
        tqdm(total=sum(cells for _, cells in sizes.values()), unit="cell") as bar,
        ThreadPoolExecutor(at_once) as pool,
    ):

        def one(path: Path) -> Json:
            result = verdict(path, problems(path), executed(path, full, kernel, bar.update), slower)
            bar.write(lines(result))
            return result

        done = dict(zip(longest_first, pool.map(one, longest_first), strict=True))
    return [done[path] for path in paths]


def lines(result: Json) -> str:
    """A verdict in one line, and one more for each problem and each changed cell."""
    said = "passed" if result["passed"] else "FAILED"
    counts = f"{len(result['changed'])} changed cells, {len(result['problems'])} problems, "
    head = (
        f"{said}  {result['notebook']}: {'' if result['passed'] else counts}"
        f"{60 * result['minutes']:.0f} s, {result['peak_gib']:.2f} GiB"
    )
    cells = [f"cell {one['cell']} {KINDS[one['kind']]}" for one in result["changed"]]
    return "\n        ".join([head, *result["problems"], *cells])


def versions() -> Json:
    """Python, system and the packages that matter, as they are here."""
    have = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    for name in SHOWN:
        try:
            have[name] = version(name)
        except PackageNotFoundError:
            continue
    return have


def report(results: list[Json], began: float, have: Json, between: Sequence[str] = ()) -> Json:
    """The whole report, as data.

    Args:
        results: the verdicts.
        began: when, as `time.time()` gives it.
        have: `versions()` of the environment in which the notebooks ran.
        between: what is wrong between the files.
    """
    return {
        "passed": all(result["passed"] for result in results) and not between,
        "made": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(began)),
        "seconds": round(time.time() - began),
        "versions": have,
        "between": list(between),
        "notebooks": results,
    }


def summary(report: Json) -> str:
    """A report in a line."""
    failed = sum(not result["passed"] for result in report["notebooks"])
    passed = len(report["notebooks"]) - failed
    return f"{passed} passed, {failed} failed, {report['seconds']} s"


def validate(arguments: Sequence[Path]) -> Json:
    """Validate the notebooks named, or the whole course; returns a `report`.

    Raises:
        CourseError: nbval is not installed, or a name is no notebook.
    """
    if find_spec("nbval") is None:
        raise CourseError(
            "nbval is not installed.",
            "It compares the notebooks, and is an optional part of the course.",
            'Run: pip install -c constraints.txt -e ".[test]"',
        )
    paths, began = found(arguments), time.time()
    results = run(paths)
    between = [] if arguments else notebook_checks.problems_between()
    return report(results, began, versions(), between)
