"""What is stored of a notebook that was run: minimal metadata that stays the same from run to run.

Our own and not nbstripout's: that one takes the outputs away, which the course keeps and compares.
What is folded away follows from a cell's tags, so that an author sets those and nothing else.
"""

from typing import Any

HIDDEN = "hide-output"  # until run: it answers a question that the lesson asks first
FOLDED = "hide-input"  # code that every notebook has and nobody needs to read first
# MyST-NB reads the tags. JupyterLab and Colab read `jupyter` (a cell that is run shows its output
# again), older Jupyters `collapsed`; Colab folds code away where it says `cellView`.
WRITTEN: dict[str, dict[str, Any]] = {
    HIDDEN: {"collapsed": True, "jupyter": {"outputs_hidden": True}},
    FOLDED: {"cellView": "form", "jupyter": {"source_hidden": True}},
}


def metadata(tags: list[str]) -> dict[str, Any]:
    """All the metadata of a cell with these tags."""
    found: dict[str, Any] = {"tags": tags} if tags else {}
    for tag in WRITTEN:
        if tag in tags:
            jupyter = {**found.get("jupyter", {}), **WRITTEN[tag]["jupyter"]}
            found |= {**WRITTEN[tag], "jupyter": jupyter}
    return found


def clean_cells(notebook: Any) -> None:
    """Leave of every cell's metadata what follows from its tags."""
    for cell in notebook.cells:
        cell.metadata = metadata(list(cell.metadata.get("tags", [])))


def clean(notebook: Any) -> None:
    """Leave minimal, stable metadata: no widget state, no times, no stderr, no editor leftovers."""
    course = notebook.metadata.get("course")
    notebook.metadata = type(notebook.metadata)(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    if course:
        notebook.metadata["course"] = course
    clean_cells(notebook)
    for cell in notebook.cells:
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
