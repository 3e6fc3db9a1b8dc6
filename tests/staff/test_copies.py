"""Notebooks as other programs save them: `validate` reads them and says what is wrong."""

import json

import pytest

from course_staff.notebooks import store as notebooks
from course_staff.validation import validate


def saved_on_colab(path, cells, **metadata):
    """Nbformat 4.0: no cell has an id, only its metadata may have one."""
    kernel = {"name": "python3", "display_name": "Python 3"}
    metadata = {"colab": {"provenance": []}, "kernelspec": kernel, **metadata}
    stored = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 0}
    path.write_text(json.dumps(stored), encoding="utf-8")
    return path


def code(source, count, text="", name="stdout", **metadata):
    shown = [{"output_type": "stream", "name": name, "text": text}] if text else []
    return {
        "cell_type": "code",
        "execution_count": count,
        "metadata": metadata,
        "outputs": shown,
        "source": source,
    }


WRONG = {
    "executed as 7, should be 1": [code("print(1)", 7, "1\n", id="a")],
    "executed as None, should be 1": [code("print(1)", None, id="a")],
    "cell b: is empty": [code("print(1)", 1, "1\n", id="a"), code("", None, id="b")],
    "a warning": [code("1", 1, "FutureWarning: x\n", id="a")],
    "stderr is stored": [code("1", 1, "x\n", "stderr", id="a")],
    "dollar signs": [{"cell_type": "markdown", "metadata": {}, "source": "It costs $5 and $6"}],
    "shows a key": [code("1", 1, "hf_" + "a" * 30, outputId="x")],
    "longer than a screen": [code("x = 1\n" * 99, 1)],
}


@pytest.mark.parametrize("says", WRONG)
def test_a_copy_saved_on_colab_is_read(tmp_path, says):
    """An instructor with a copy from Colab is told what is wrong with it, by the cell's own id."""
    (problem, *_) = validate.stored_problems(saved_on_colab(tmp_path / "copy.ipynb", WRONG[says]))
    assert says in problem and "Error" not in problem


def test_every_cell_has_an_id_of_its_own(tmp_path):
    """An instructor who copied a cell on Colab, where both then have the same id, or an odd one."""
    cells = [code("1", 1, id="a"), code("2", 2, id="a"), code("3", 3, id="ö/x"), code("4", 4)]
    found = notebooks.read(saved_on_colab(tmp_path / "copy.ipynb", cells))
    ids = [cell.id for cell in found.cells]
    assert ids[0] == "a" and len(set(ids)) == 4
    notebooks.write(found, tmp_path / "again.ipynb")
    assert [cell.id for cell in notebooks.read(tmp_path / "again.ipynb").cells] == ids


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"cells": 3}', "\x00\x01", "<html>"])
def test_a_file_that_is_no_notebook_is_a_sentence(tmp_path, text):
    """An instructor with a half download, or a sign-in page saved as .ipynb."""
    (tmp_path / "x.ipynb").write_text(text)
    (problem,) = validate.stored_problems(tmp_path / "x.ipynb")
    assert problem.startswith("x.ipynb cannot be read as a notebook")


def test_folders_and_bytes_that_are_no_text(tmp_path):
    """An instructor whose file was saved in another encoding."""
    (tmp_path / "x.ipynb").write_bytes('{"cells": "ü"}'.encode("utf-16"))
    (problem,) = validate.stored_problems(tmp_path / "x.ipynb")
    assert "cannot be read as a notebook" in problem
