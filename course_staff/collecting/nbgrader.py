"""The lessons as nbgrader takes them: `python -m course_staff publish nbgrader FOLDER`.

Behind each exercise's cell stands a locked one that holds the answer against the course's checks,
for a point. The exercise's own cell stays an ordinary one: from a cell of nbgrader's kind
"solution" it would take the starter away. The format is nbgrader's cell metadata, schema version 3.
"""

import ast
import json
from pathlib import Path
from typing import Any

from course_staff.notebooks import store

TEST = """\
from course_utils.checks import judged

solved, said = judged({key!r}, {answer})
assert solved, said"""
GRADED = {"schema_version": 3, "grade": True, "points": 1, "locked": True}
GRADED |= {"solution": False, "task": False}


def _checks(source: str) -> list[tuple[str, str]]:
    """(key, what is checked) of every `check(key, answer)` in a cell."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    found = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "check"]
    return [(ast.literal_eval(call.args[0]), ast.unparse(call.args[1])) for call in found]


def assignment(path: Path) -> Any:
    """A lesson as an nbgrader notebook, without outputs."""
    from nbformat.v4 import new_code_cell

    notebook = store.read(path)
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if "exercise" not in cell.metadata.get("tags", []):
            continue
        for key, answer in _checks(cell.source):
            name = f"exercise-{key.replace('.', '-')}"
            test = new_code_cell(TEST.format(key=key, answer=answer), id=name)
            test.metadata = {"nbgrader": {"grade_id": name, **GRADED}}
            cells.append(test)
    notebook.cells = cells
    return notebook


def write(folder: Path) -> list[Path]:
    """Write each lesson as an assignment below `folder`/source; returns the notebooks.

    Raises:
        CourseError: one cannot be written.
    """
    pages = []
    for path in store.lessons():
        page = folder / "source" / path.stem / path.name
        page.parent.mkdir(parents=True, exist_ok=True)
        store.put({page: json.dumps(assignment(path), indent=1, ensure_ascii=False) + "\n"})
        pages.append(page)
    return pages
