"""What must hold for a stored notebook, apart from its outputs being true: `problems(path)`.

nbval compares outputs by running a notebook. Here nothing is run: order, secrets, paths,
metadata, the cells that every lesson shares, and the exercises are read from the file.
"""

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from course_staff.notebooks import cards, cleaning, shared, store, tables
from course_utils import checks

IGNORE = "nbval-ignore-output"
RAISES = "raises-exception"
TAGS = {IGNORE, RAISES, cleaning.HIDDEN, cleaning.FOLDED, "exercise", "setup"}
REASON = "# not compared: "
SCREEN = 40  # lines of code that fit a screen
EXERCISES, HINTS, QUESTIONS = range(3, 6), 3, range(4, 7)
COURSE_KEYS = {"lesson", "title", "about", "minutes"}
TIER_KEYS = {"runs_on", "run_minutes", "memory_gib", "download", "dollars", "gated"}
SHOULD_NOT_SHOW = {
    "a key": re.compile(r"\b(?:sk-[\w-]{20,}|hf_[A-Za-z0-9]{20,}|gh[ps]_[A-Za-z0-9]{30,})"),
    "an absolute path": re.compile(
        r"(?<![\w.:/~-])/(?:bin|content|etc|home|mnt|opt|private|root|tmp|usr|Users|var|work)/[\w.]"
        r"|\b[A-Z]:\\{1,2}\w"
    ),
    "a warning": re.compile(r"\b\w*Warning:"),
    "an object's address": re.compile(r"\bat 0x[0-9a-fA-F]{6,}"),
}
# the learner's own secrets, should a notebook be checked in their environment
PRIVATE = ("OPENAI_API_KEY", "HF_TOKEN")


def problems(path: Path) -> list[str]:
    """Everything wrong with a stored notebook, one sentence each; empty where it is fine."""
    return faults(store.read(path), store.key(path))


def faults(notebook: Any, name: str) -> list[str]:
    """Everything wrong with `notebook`, which is stored under the key `name`."""
    found = [
        *_order(notebook),
        *_outputs(notebook),
        *_dollars(notebook),
        *_metadata(notebook),
        *_ignored(notebook, ignored_cells().get(name, {})),
        *_shared_cells(notebook, name),
    ]
    solution = name.startswith("solutions/")
    return found + list(_exercises(notebook, name.rpartition("/")[2], solution))


def copy_faults(notebook: Any) -> list[str]:
    """What is wrong with somebody's changed copy: order and outputs, not the course's own cells."""
    return [*_order(notebook), *_outputs(notebook), *_dollars(notebook)]


def problems_between() -> list[str]:
    """What is wrong between the files: lists and tables that do not fit the notebooks."""
    found = []
    names = [store.key(path) for path in store.every()]
    for name in sorted(set(ignored_cells()) - set(names)):
        found.append(f"ignored_cells.toml: there is no notebook {name}")
    for path in store.lessons():
        if f"solutions/{store.key(path)}" not in names:
            found.append(f"{path.name}: no notebook with its solutions")
    table = cards.readme_table(tables.courses())
    if f"{cards.BEGIN}\n{table}\n{cards.END}" not in (store.ROOT / "README.md").read_text(
        encoding="utf-8"
    ):
        found.append("README.md: its table is not what the notebooks say; run make notebooks")
    if store.LESSONS.read_text(encoding="utf-8") != tables.lessons_json():
        found.append("data/lessons.json: is not what the notebooks say; run make notebooks")
    return found


def ignored_cells() -> dict[str, dict[str, str]]:
    """The reasons in notebooks/ignored_cells.toml: {notebook key: {cell id: reason}}."""
    path = store.FOLDER / "ignored_cells.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def _order(notebook: Any) -> Iterator[str]:
    """Every code cell executed, from top to bottom, and none longer than a screen."""
    for n, cell in enumerate(_code(notebook), 1):
        if not cell.source.strip():
            yield f"cell {cell.id}: is empty"
        if cell.execution_count != n:
            yield f"cell {cell.id}: executed as {cell.execution_count}, should be {n}"
        if len(cell.source.splitlines()) > SCREEN:
            yield f"cell {cell.id}: is longer than a screen ({SCREEN} lines)"


def _texts(cell: Any) -> Iterator[str]:
    """All text of a cell's outputs, whatever its form."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        elif output.output_type == "error":
            yield f"{output.ename}: {output.evalue}"
            yield from output.traceback
        else:
            yield from (text for kind, text in output.data.items() if kind.startswith("text/"))


def _outputs(notebook: Any) -> Iterator[str]:
    """No secret, path, warning, address, widget or unexpected error in what is stored."""
    own = [os.environ[name] for name in PRIVATE if len(os.environ.get(name, "")) >= 8]
    for cell in _code(notebook):
        for text in [cell.source, *_texts(cell)]:
            if SHOULD_NOT_SHOW["a key"].search(text) or any(value in text for value in own):
                yield f"cell {cell.id}: shows a key"
        for text in _texts(cell):
            for what, pattern in SHOULD_NOT_SHOW.items():
                if what != "a key" and (match := pattern.search(text)):
                    yield f"cell {cell.id}: its output shows {what} ({match[0]})"
        for output in cell.outputs:
            if output.get("name") == "stderr":
                yield f"cell {cell.id}: stderr is stored"
            if any("widget" in kind for kind in output.get("data", {})):
                yield f"cell {cell.id}: a widget is stored"
            if output.output_type == "error" and RAISES not in _tags(cell):
                yield f"cell {cell.id}: ends in {output.ename} without the tag {RAISES}"


def _dollars(notebook: Any) -> Iterator[str]:
    """No two dollar signs in a text: JupyterLab would set what is between them as a formula."""
    code = re.compile(r"```.*?```|`[^`]*`|\\\$", re.S)
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and code.sub("", cell.source).count("$") > 1:
            yield rf"cell {cell.id}: dollar signs make a formula; write \$"


def _metadata(notebook: Any) -> Iterator[str]:
    """Nothing in the metadata that an editor or a run leaves behind."""
    for extra in sorted(set(notebook.metadata) - {"kernelspec", "language_info", "course"}):
        yield f"metadata: {extra} does not belong there"
    if notebook.metadata.get("language_info") != {"name": "python"}:
        yield "metadata: language_info should be the name alone"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "metadata: the kernel should be python3"
    ids = [cell.get("id") for cell in notebook.cells]
    for repeated in sorted({str(one) for one in ids if ids.count(one) > 1}):
        yield f"cell {repeated}: the id is not the only one of its name"
    for cell in notebook.cells:
        if cell.metadata != cleaning.metadata(_tags(cell)):
            yield f"cell {cell.id}: metadata other than its tags ask for; run notebooks cards"
        for tag in sorted(set(_tags(cell)) - TAGS):
            yield f"cell {cell.id}: unknown tag {tag}"
        if any(output.get("metadata") for output in cell.get("outputs", [])):
            yield f"cell {cell.id}: an output has metadata"


def _ignored(notebook: Any, listed: dict[str, str]) -> Iterator[str]:
    """Ignored cells listed with the reason they give, the others compared: four in five."""
    ignored = [cell for cell in _code(notebook) if IGNORE in _tags(cell)]
    for cell in ignored:
        first = cell.source.partition("\n")[0]
        if not first.startswith(REASON):
            yield f"cell {cell.id}: ignored, its first line should be {REASON!r} and the reason"
        elif listed.get(cell.id) != first.removeprefix(REASON):
            yield f"cell {cell.id}: ignored, with another reason or none in ignored_cells.toml"
    for extra in sorted(set(listed) - {cell.id for cell in ignored}):
        yield f"ignored_cells.toml: cell {extra} is not there or not ignored"
    for cell in _code(notebook):
        if "NBVAL_" in cell.source:
            yield f"cell {cell.id}: a marker in the code; use a tag"
    shown = [cell for cell in _code(notebook) if cell.outputs]
    compared = [cell for cell in shown if IGNORE not in _tags(cell)]
    if len(compared) < 0.8 * len(shown):
        yield f"only {len(compared)} of {len(shown)} cells with output are compared"


def _shared_cells(notebook: Any, name: str) -> Iterator[str]:
    """The badge, the card and the setup cell are what `notebooks cards` writes."""
    title = store.cell_by_id(notebook, "title")
    if title is None or shared.badge(name) not in title.source.splitlines():
        yield "cell title: no badge that opens this very notebook; run notebooks cards"
    setup = store.cell_by_id(notebook, "setup")
    if setup is None or setup.source != shared.setup_source():
        yield "cell setup: is not the standard one; run notebooks cards"
    elif setup is not _code(notebook)[0]:
        yield "cell setup: is not the first code cell"
    if name.startswith("solutions/"):
        return
    course = notebook.metadata.get("course", {})
    missing = sorted(
        {
            *(COURSE_KEYS - set(course)),
            *([] if cards.first(course) else ["a row"]),
            *(key for tier in cards.TIERS for key in TIER_KEYS - set(course.get(tier, TIER_KEYS))),
        }
    )
    if missing:
        yield f"metadata: the card lacks {', '.join(missing)}"
        return
    if not name.startswith(f"{course['lesson']}_"):
        yield f"metadata: lesson {course['lesson']} is stored as {name}"
    card = store.cell_by_id(notebook, "card")
    if card is None or card.source != cards.markdown(course):
        yield "cell card: is not what the metadata say; run notebooks cards"


def _exercises(notebook: Any, name: str, solution: bool) -> Iterator[str]:
    """Starters say "not answered yet", solutions "correct", and all of the lesson's are there."""
    number = name[:2]
    try:
        module = checks.lesson(number)
    except ModuleNotFoundError:
        yield f"course_utils/exercises: there is no lesson_{number}"
        return
    checked = {}
    for cell in (one for one in _code(notebook) if solution or "exercise" in _tags(one)):
        for key in re.findall(r"\bcheck\(\s*[\"']([\d.]+)[\"']", cell.source):
            checked[key] = "".join(_texts(cell))
    for key in sorted(set(module.EXERCISES) - set(checked)):
        yield f"exercise {key}: no cell {'' if solution else 'tagged exercise '}checks it"
    said = f"{'correct' if solution else checks.NOT_ANSWERED}."
    for key, text in sorted(checked.items()):
        if f"Exercise {key}: {said}" not in text:
            yield f"exercise {key}: its output does not say {said!r}"
    if solution:
        return
    if len(module.EXERCISES) not in EXERCISES:
        yield f"exercises: {len(module.EXERCISES)}, should be three to five"
    for key, exercise in sorted(module.EXERCISES.items()):
        if len(exercise.hints) != HINTS:
            yield f"exercise {key}: {len(exercise.hints)} hints, should be {HINTS}"
    if len(module.QUIZ) not in QUESTIONS:
        yield f"self-test: {len(module.QUIZ)} questions, should be four to six"
    if not any(f'quiz("{number}")' in cell.source for cell in _code(notebook)):
        yield f'self-test: no cell calls quiz("{number}")'
