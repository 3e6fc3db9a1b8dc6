"""The lessons on a look-alike of Google Colab: `python -m tests.colab.look_alike [NOTEBOOK…]`.

Colab opens a bare .ipynb in a machine of its own, with its own versions and without the course. So
each lesson is put alone into an empty folder and run by a kernel that starts like Colab's, in a
fresh environment on top of Colab's versions (`constraints.txt`). Its setup cell has to bring the
course (from this checkout, through `COURSE_SOURCE`), may add only what is missing, and the lesson
has to show what is stored. `make colab` runs it; the first time it takes minutes.

At the end the explorers are worked there as widgets (`tests/utils/test_explorers.py`): a notebook
that a program runs shows pictures in their place, a learner on Colab sees ipywidgets 7.

Not as on Colab: Python is the one that runs this. Where that has a CPU build of torch, torch is a
CPU build too: of Colab's version if pip finds one, else the one that is here.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from course_staff.notebooks import executing
from course_staff.notebooks import store as notebooks
from course_staff.validation import report as validate_report
from course_staff.validation import validate
from course_utils.errors import CourseError

HERE = Path(__file__).resolve().parent
BASE = notebooks.ROOT / ".venv-colab"
PREINSTALLED = (
    *("accelerate", "datasets", "huggingface_hub", "ipykernel", "ipython", "ipywidgets"),
    *("matplotlib", "numpy", "openai", "peft", "pytest", "requests", "scikit-learn"),
    *("tokenizers", "torch", "tqdm", "transformers"),
)
# The setup cell may replace these: trl needs newer ones than Colab's, and no kernel has them
# imported before the first cell.
MAY_CHANGE = {"datasets", "pyarrow"}
INSTALLS = 1000.0  # times its card: the minutes there are without installing the course
# What a wheel is made of. Nothing else is copied: a pattern of what to leave out hits too much.
SOURCES = (
    "course_utils",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "pocket_training/corpus/LICENSE",
)


def python_of(folder: Path) -> Path:
    """The Python of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def call(*command: object, **more: Any) -> str:
    """Run a command; its output, or an error with what it said."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command[:6]))} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def cpu_build(pip: list[object], number: str) -> str:
    """The CPU build of torch of this version where pip finds one, else the version that is here."""
    build = f"{number}+cpu"
    command = [*pip, "install", "-q", "--dry-run", "--no-deps", f"torch=={build}"]
    found = subprocess.run([str(part) for part in command], capture_output=True)
    return version("torch") if found.returncode else build


def constraints(pip: list[object]) -> str:
    """Colab's versions, with a CPU build of torch where the running Python has one."""
    text = (HERE / "constraints.txt").read_text(encoding="utf-8")
    if not version("torch").endswith("+cpu"):
        return text
    return re.sub(r"(?m)^torch==(.+)$", lambda found: f"torch=={cpu_build(pip, found[1])}", text)


def build_base() -> None:
    """An environment with Colab's versions, made once for every list of versions."""
    text = (HERE / "constraints.txt").read_text(encoding="utf-8")
    wanted = f"{text}# {' '.join(PREINSTALLED)}\n"
    stamp = BASE / "wanted.txt"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    print(f"Making {BASE.name} with Colab's versions: some minutes, once.", flush=True)
    call(sys.executable, "-m", "venv", "--clear", BASE)
    pip: list[object] = [python_of(BASE), "-m", "pip"]
    chosen = BASE / "constraints.txt"
    chosen.write_text(constraints(pip), encoding="utf-8")
    call(*pip, "install", "-q", "-c", chosen, *PREINSTALLED)
    stamp.write_text(wanted, encoding="utf-8")  # last: an interrupted one is made again


def packages(folder: Path) -> dict[str, str]:
    """{canonical name: version} of what is installed in a virtual environment itself."""
    sites = [str(site) for site in folder.glob("**/site-packages")]
    return {canonicalize_name(one.name): one.version for one in distributions(path=sites)}


def build_wheel(folder: Path) -> Path:
    """The course as a wheel, from a copy of the checkout: pip would leave traces in it."""
    copy = folder / "checkout"
    for name in SOURCES:
        source, target = notebooks.ROOT / name, copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    call(python_of(BASE), "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, copy)
    return next(folder.glob("*.whl"))


def fresh_machine(folder: Path, name: str, wheel: Path) -> None:
    """An empty environment on top of Colab's, and the kernel `name` that starts there."""
    call(python_of(BASE), "-m", "venv", "--without-pip", folder / name)
    (site,) = (folder / name).glob("**/site-packages")
    below = next(BASE.glob("**/site-packages"))
    (site / "colab.pth").write_text(f"{below}\n", encoding="utf-8")
    page = folder / "page.json"
    page.write_text("{}", encoding="utf-8")  # a page with no secrets
    kernel = folder / "kernels" / name
    kernel.mkdir(parents=True)
    python = python_of(folder / name)
    spec = {
        "argv": [str(python), "-m", "colab_kernel_launcher", "-f", "{connection_file}"],
        "display_name": name,
        "language": "python",
        "env": {
            "PYTHONPATH": str(HERE / "site"),
            "COLAB_RELEASE_TAG": "look-alike",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # as Colab sets it: debugpy is imported
            "COLAB_PAGE": str(page),
            "COURSE_SOURCE": str(wheel),
            "PATH": os.pathsep.join([str(python.parent), os.environ["PATH"]]),
        },
    }
    (kernel / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")


def imported_at_start(name: str) -> set[str]:
    """The canonical names of the packages that a fresh kernel has imported."""
    import nbformat
    from nbclient import NotebookClient

    source = (
        "import sys, importlib.metadata as m\n"
        "tops = {one.partition('.')[0] for one in sys.modules}\n"
        "homes = m.packages_distributions()\n"
        "print(*{home for top in tops for home in homes.get(top, [])})"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, kernel_name=name).execute()
    return {canonicalize_name(one) for one in notebook.cells[0].outputs[0]["text"].split()}


def changes(machine: Path, imported: set[str]) -> list[str]:
    """What a setup cell did that it must not do, one sentence each."""
    before, after = packages(BASE), packages(machine)
    found = [] if "open-llms-hands-on" in after else ["the setup cell did not bring the course"]
    for name in sorted(set(before) & set(after)):
        move = f"{name} {before[name]} became {after[name]}"
        if name in imported:
            found.append(f"{move}: it was imported already, Colab would ask for a restart")
        elif name not in MAY_CHANGE:
            found.append(f"{move}: Colab's own version should stay")
    return found


def run_alone(path: Path, folder: Path, name: str, wheel: Path) -> dict[str, Any]:
    """Run one notebook, alone in an empty folder; its verdict.

    The first notebook's setup cell says that it installs the course, which no stored one does.
    """
    key = notebooks.key(path)
    alone = folder / key.replace("/", "-")
    alone.mkdir()
    bare = Path(shutil.copy(path, alone))
    (result,) = validate.run([bare], lambda _: [], kernel=name, at_once=1, slower=INSTALLS)
    result["notebook"] = key
    said = f"Installing the course from {wheel}: a few minutes, once.\n"
    result["changed"] = [
        cell
        for cell in result["changed"]
        if not (cell["cell"] == "setup" and cell["fresh"] == said + cell["stored"])
    ]
    result["passed"] = not (result["changed"] or result["problems"])
    return result


def run_pair(paths: list[Path], folder: Path, wheel: Path) -> list[dict[str, Any]]:
    """A lesson and its solutions on one fresh machine, the lesson first."""
    name = f"colab-{paths[0].stem}"
    fresh_machine(folder, name, wheel)
    imported = imported_at_start(name)
    results = [run_alone(path, folder, name, wheel) for path in paths]
    found = changes(folder / name, imported)
    print("".join(f"        {one}\n" for one in found), end="")
    results[0]["problems"] += found
    results[0]["passed"] &= not found
    return results


def work_explorers(machine: Path, page: Path) -> list[str]:
    """What goes wrong where the explorers are worked as widgets; empty where nothing does."""
    done = subprocess.run(
        [python_of(machine), "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider"]
        + ["-c", os.devnull, "--rootdir", machine, HERE.parent / "utils" / "test_explorers.py"],
        cwd=machine,
        env={**executing.environment(), "COLAB_PAGE": str(page), "PYTHONPATH": str(HERE / "site")},
        capture_output=True,
        text=True,
    )
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed or ([done.stdout[-800:] + done.stderr[-800:]] if done.returncode else [])


def main() -> int:
    """Run the notebooks, write the report; 1 where one does not pass."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--report", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    try:
        paths = [path.resolve() for path in validate.found(args.notebooks)]
    except CourseError as error:
        raise SystemExit(str(error)) from None
    build_base()
    pairs: dict[str, list[Path]] = {}
    for path in paths:
        pairs.setdefault(path.stem, []).append(path)
    began, results = time.time(), []
    with tempfile.TemporaryDirectory(prefix="colab-") as temporary:
        folder = Path(temporary)
        os.environ["JUPYTER_PATH"] = temporary  # where this process finds the kernels
        wheel = build_wheel(folder)
        for pair in pairs.values():
            results += run_pair(pair, folder, wheel)
        machine = folder / f"colab-{paths[0].stem}"
        between = work_explorers(machine, folder / "page.json")
        code = f"import sys; sys.path.append({str(notebooks.ROOT)!r}); import json; "
        code += (
            "from course_staff.validation import validate; print(json.dumps(validate.versions()))"
        )
        have = json.loads(call(python_of(machine), "-c", code, cwd=folder))
    report = validate.report(results, began, have, [f"explorers: {one}" for one in between])
    for problem in report["between"]:
        print(problem)
    print(validate.summary(report))
    if args.report:
        print(validate_report.write(report, args.report))
    return int(not report["passed"])


if __name__ == "__main__":
    sys.exit(main())
