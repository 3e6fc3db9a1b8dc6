"""Whether a lesson survives being run back and forth: `python -m tests.lessons.again NOTEBOOK…`.

Every code cell is executed twice in a row, and each section (what a heading `## …` opens) again
after the last cell, in one kernel. Each time a cell has to give what it gave the first time and may
not fail, unless it is meant to. Cells tagged `nbval-ignore-output` may differ in what they print.
"""

import os
import sys
from pathlib import Path
from typing import Any

from course_staff.notebooks import executing
from course_staff.notebooks import store as notebooks

VARIES, FAILS = "nbval-ignore-output", "raises-exception"


def said(outputs: list[Any]) -> str:
    """The text of a cell's outputs, without stderr; of an error its name and message."""
    parts = []
    for output in outputs:
        if output["output_type"] == "stream":
            parts.append(output["text"] if output["name"] == "stdout" else "")
        elif output["output_type"] == "error":
            parts.append(f"{output['ename']}: {output['evalue']}\n")
        else:
            parts.append(str(output["data"].get("text/plain", "")) + "\n")
    return "".join(parts)


def sections(cells: list[Any]) -> list[tuple[str, list[int]]]:
    """(heading, places of its code cells) of every section."""
    found: list[tuple[str, list[int]]] = [("before the first heading", [])]
    for n, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
                if line.startswith("## "):
                    found.append((line[3:], []))
        elif cell.source.strip():
            found[-1][1].append(n)
    return found


def faults(path: Path, at_the_end: bool = True) -> list[str]:
    """What a lesson does otherwise the second or a later time, one line for each cell.

    Args:
        path: a notebook.
        at_the_end: also run each section again after the last cell.
    """
    from nbclient import NotebookClient

    notebook = notebooks.read(path)
    client = NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
    )
    first: dict[int, str] = {}
    found: list[str] = []
    cells = notebook.cells

    def run(n: int, when: str) -> None:
        cell, tags = cells[n], cells[n].metadata.get("tags", [])
        client.execute_cell(cell, n)
        text = said(cell.outputs)
        failed = any(output["output_type"] == "error" for output in cell.outputs)
        if failed and FAILS not in tags:
            found.append(f"{cell.id}, {when}: {text.splitlines()[-1] if text else 'an error'}")
        elif VARIES not in tags and text != first.setdefault(n, text):
            old, new = first[n].splitlines(), text.splitlines()
            pairs = [(a, b) for a, b in zip(old, new, strict=False) if a != b]
            shown = pairs[0] if pairs else (f"{len(old)} lines", f"{len(new)} lines")
            found.append(f"{cell.id}, {when}: {shown[0]!r} became {shown[1]!r}")

    kept, wanted = dict(os.environ), executing.environment()
    os.environ.clear()
    os.environ.update(wanted)
    try:
        with client.setup_kernel():
            for _, places in sections(cells):
                for n in places:
                    run(n, "first")
                    run(n, "twice in a row")
            for heading, places in sections(cells) if at_the_end else ():
                for n in places:
                    run(n, f"section {heading!r} after the end")
    finally:
        os.environ.clear()
        os.environ.update(kept)
    return found


if __name__ == "__main__":
    failed = 0
    for path in [Path(p).resolve() for p in sys.argv[1:]] or notebooks.lessons():
        lines = faults(path)
        failed += bool(lines)
        print(f"{path.name}: {len(lines)} cells differ", *lines, sep="\n  ", flush=True)
    sys.exit(failed)
