"""Executing the notebooks and keeping what is stored in them clean and true.

    python -m course_staff notebooks run [NOTEBOOK…]    execute, store outputs, measure the cards
    python -m course_staff notebooks cards [NOTEBOOK…]  write badges, setup cells, cards and the
                                                        README's table, without executing

`make notebooks` does both. Outputs are only ever written by execution.
"""

import json
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

from course_staff.notebooks import cards
from course_utils.errors import CourseError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
LESSONS = ROOT / "course_utils" / "data" / "lessons.json"
STATIC = {
    "COURSE_STATIC": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore",
    "COLUMNS": "80",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}
BRANCH = "main"
BADGE = "[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
# The same in every notebook. It has to work in a bare .ipynb, so it can use nothing of ours until
# the course is there. What is installed already is handed to pip as a constraint: replacing a
# package that the kernel has imported would ask for a restart.
SETUP = """\
# Setup: where the course is missing, as on Colab, add it and leave what is there as it is.
import importlib.util, os, pathlib, subprocess, sys, tempfile

if importlib.util.find_spec("course_utils") is None:
    address = "git+{address}@{branch}"
    source = os.environ.get("COURSE_SOURCE", address)
    print(f"Installing the course from {{source}}: a few minutes, once.")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    here = subprocess.run([*pip, "list", "--format=freeze"], capture_output=True, text=True)
    keep = pathlib.Path(tempfile.gettempdir(), "course-keeps.txt")
    moves = ("datasets==", "pyarrow==")  # trl asks for newer ones than Colab has
    keep.write_text("\\n".join(p for p in here.stdout.split() if not p.startswith(moves)))
    done = subprocess.run([*pip, "install", "-qc", keep, source], capture_output=True, text=True)
    if done.returncode:  # end in a message, without a traceback
        error = type("SetupError", (Exception,), {{"_render_traceback_": lambda e: [str(e)]}})
        raise error(f"The course could not be installed. pip says:\\n{{done.stderr[-800:]}}\\n"
                    "Next: check the network, or set COURSE_SOURCE to a folder or address that "
                    "holds the course, and run this cell again.")
    importlib.invalidate_caches()

from course_utils import models, settings

settings.prepare()
print(models.said_by())"""
LEARNERS_OWN = ("COURSE_MODEL", "COURSE_API_MODEL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "HF_TOKEN")


def lessons() -> list[Path]:
    """The lessons in reading order."""
    return sorted(FOLDER.glob("[0-9]*.ipynb"))


def every() -> list[Path]:
    """The lessons and their solutions."""
    return lessons() + sorted((FOLDER / "solutions").glob("[0-9]*.ipynb"))


def environment() -> dict[str, str]:
    """The environment a notebook is executed in by a program: pocket tier, static, quiet."""
    kept = {k: v for k, v in os.environ.items() if k not in LEARNERS_OWN}
    return {**kept, **STATIC}


def read(path: Path) -> Any:
    """A notebook as an nbformat object."""
    import nbformat

    return nbformat.read(path, as_version=4)


def write(notebook: Any, path: Path) -> None:
    """Write a notebook whole or not at all."""
    import nbformat

    fresh = path.with_suffix(".new")
    nbformat.write(notebook, fresh)
    fresh.replace(path)


class Peak:
    """The peak resident memory, in bytes, of this process's children while the block runs."""

    def __enter__(self) -> "Peak":
        """Start sampling, five times a second."""
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        import psutil

        me = psutil.Process()
        while not self._stop.wait(0.2):
            total = 0
            for child in me.children(recursive=True):
                try:
                    total += child.memory_info().rss
                except psutil.Error:
                    continue
            self.bytes = max(self.bytes, total)


def execute(path: Path, notebook: Any) -> tuple[float, int]:
    """Run all cells in a fresh kernel, outputs into `notebook`; returns (seconds, peak bytes)."""
    from nbclient import NotebookClient

    client = NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        allow_errors=False,
    )
    saved, wanted = dict(os.environ), environment()
    os.environ.clear()
    os.environ.update(wanted)
    began = time.monotonic()
    try:
        with Peak() as peak:
            client.execute()
    finally:
        os.environ.clear()
        os.environ.update(saved)
    return time.monotonic() - began, peak.bytes


def clean(notebook: Any) -> None:
    """Leave minimal, stable metadata: no widget state, no times, no stderr, no editor leftovers."""
    course = notebook.metadata.get("course")
    notebook.metadata = type(notebook.metadata)(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    if course:
        notebook.metadata["course"] = course
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
        if cell.cell_type == "code":
            cell.outputs = _joined([o for o in cell.outputs if o.get("name") != "stderr"])
            for output in cell.outputs:
                if "metadata" in output:
                    output["metadata"] = {}


def _joined(outputs: list[Any]) -> list[Any]:
    """Outputs with printed text in one piece: where it was cut depends on the kernel's timing."""
    kept: list[Any] = []
    for output in outputs:
        last = kept[-1] if kept else {}
        if output.get("output_type") == "stream" and last.get("name") == output.get("name"):
            last["text"] += output["text"]
        else:
            kept.append(output)
    return kept


def update_card(notebook: Any, seconds: float, peak: int) -> None:
    """Put measured run time (minutes) and memory (GiB) into the metadata, rounded up."""
    course = notebook.metadata.get("course")
    if not course:
        return
    pocket = course["pocket"]
    pocket["run_minutes"] = cards.settled(pocket.get("run_minutes"), seconds / 60, 0.5)
    pocket["memory_gib"] = cards.settled(pocket.get("memory_gib"), peak / 2**30, 0.5)


def address() -> str:
    """The repository's address, from its one place: pyproject.toml.

    Raises:
        CourseError: the course was installed from elsewhere, and this is not its repository.
    """
    import tomllib

    if not (ROOT / "pyproject.toml").is_file():
        raise CourseError(
            "This is not the course's repository.",
            "The course was installed without it.",
            "Clone the repository and run the command there.",
        )
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]["urls"]["Repository"].rstrip("/")


def setup_source() -> str:
    """The standard setup cell, with the repository's address filled in."""
    return SETUP.format(address=address(), branch=BRANCH)


def key(path: Path) -> str:
    """A notebook's name among the notebooks: "02_local_llama", "solutions/02_local_llama"."""
    return path.resolve().relative_to(FOLDER.resolve()).with_suffix("").as_posix()


def badge(name: str) -> str:
    """The line that opens the notebook with this key on Colab."""
    owner_and_name = address().removeprefix("https://github.com/")
    site = "https://colab.research.google.com/github"
    return f"{BADGE}({site}/{owner_and_name}/blob/{BRANCH}/notebooks/{name}.ipynb)"


def cell_by_id(notebook: Any, cell_id: str) -> Any:
    """The cell with this id, or None."""
    return next((cell for cell in notebook.cells if cell.get("id") == cell_id), None)


def render(notebook: Any, name: str) -> None:
    """Write what every notebook shares: badge (cell `title`), card (`card`), setup (`setup`).

    A missing setup cell is put before the first code cell.
    """
    from nbformat.v4 import new_code_cell

    title = cell_by_id(notebook, "title")
    if title is not None:
        head, *rest = [line for line in title.source.splitlines() if not line.startswith(BADGE)]
        rest = "\n".join(rest).strip("\n").splitlines()
        title.source = "\n".join([head, "", badge(name), *([""] if rest else []), *rest])
    card = cell_by_id(notebook, "card")
    if card is not None and "course" in notebook.metadata:
        card.source = cards.markdown(notebook.metadata["course"])
    setup = cell_by_id(notebook, "setup")
    if setup is None:
        setup = new_code_cell(id="setup")
        codes = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
        notebook.cells.insert(codes[0] if codes else len(notebook.cells), setup)
    setup.source = setup_source()
    setup.metadata = {"tags": ["setup"]}


def courses() -> list[tuple[Path, Any]]:
    """(path, card metadata) of every lesson that has any, in reading order."""
    found = [(path, read(path).metadata.get("course")) for path in lessons()]
    return [(path, course) for path, course in found if course]


def write_tables() -> None:
    """Write what repeats the lessons' metadata: the README's table and data/lessons.json."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    block = f"{cards.BEGIN}\n{cards.readme_table(courses())}\n{cards.END}"
    fresh = re.sub(f"{cards.BEGIN}.*?{cards.END}", lambda _: block, text, flags=re.S)
    path.write_text(fresh, encoding="utf-8")
    LESSONS.write_text(lessons_json(), encoding="utf-8")


def lessons_json() -> str:
    """The cards' metadata as the package carries it, for the preflight of an installed course."""
    return json.dumps([course for _, course in courses()], indent=1, ensure_ascii=False) + "\n"


def rewrite_address(new: str) -> list[str]:
    """Put a fork's address wherever the repository's stands; returns the changed files.

    That is pyproject.toml, the pages beside it, and every notebook's badge and setup cell.

    Args:
        new: like "https://github.com/owner/name".

    Raises:
        CourseError: it is not the address of a GitHub repository.
    """
    match = re.fullmatch(r"(?:https://|git@)github\.com[/:]([\w.-]+/[\w.-]+?)(?:\.git)?/?", new)
    if not match:
        raise CourseError(
            f"{new!r} is not a GitHub repository's address.",
            "Google Colab opens notebooks from GitHub only.",
            "Write it like https://github.com/owner/name.",
        )
    old = re.escape(address().removeprefix("https://github.com/"))
    places = re.compile(rf"((?:https://|/)github(?:\.com)?/){old}(?![\w-])")
    changed = []
    for path in [ROOT / "pyproject.toml", *sorted(ROOT.glob("*.md")), *every()]:
        text = path.read_text(encoding="utf-8")
        fresh = places.sub(lambda found: found[1] + match[1], text)
        if fresh != text:
            path.write_text(fresh, encoding="utf-8")
            changed.append(path.relative_to(ROOT).as_posix())
    return changed


def run(paths: list[Path]) -> int:
    """Execute and store each notebook; returns how many failed."""
    from nbclient.exceptions import CellExecutionError
    from tqdm.auto import tqdm

    failed = 0
    for path in (bar := tqdm(paths, unit="notebook")):
        bar.set_postfix_str(path.name)
        notebook = read(path)
        render(notebook, key(path))
        try:
            seconds, peak = execute(path, notebook)
        except CellExecutionError as error:
            failed += 1
            tqdm.write(f"{path.name}: a cell failed, nothing stored\n{error}")
            continue
        clean(notebook)
        update_card(notebook, seconds, peak)
        render(notebook, key(path))
        write(notebook, path)
        tqdm.write(f"{path.name}: {seconds:.0f} s, peak {peak / 2**30:.2f} GiB")
    return failed


def write_cards(paths: list[Path]) -> int:
    """Write badge, card and setup cell into each notebook, without executing it; returns 0."""
    for path in paths:
        notebook = read(path)
        render(notebook, key(path))
        write(notebook, path)
    return 0
