"""The cells that every notebook shares: the link to Colab, the card, the setup cell."""

from typing import Any

from course_staff.notebooks import cards, cleaning
from course_staff.notebooks.address import address
from course_staff.notebooks.store import cell_by_id

BRANCH = "main"
# Text and no picture: one from the network is the first thing that is broken without a network,
# and one beside the notebook is not there on Colab, which opens a notebook alone.
BADGE = "[Open in Colab]"
OLD_BADGES = ("[![Open In Colab]", BADGE)
# The same in every notebook. It has to work in a bare .ipynb, so it can use nothing of ours until
# the course is there. What is installed already is handed to pip as a constraint: replacing a
# package that the kernel has imported would ask for a restart.
SETUP = """\
# @title Setup: run this first. Where the course is missing, as on Colab, it is added.
import importlib.util, os, pathlib, subprocess, sys, tempfile

if importlib.util.find_spec("course_utils") is None:
    address = "git+{address}@{branch}"
    source = os.environ.get("COURSE_SOURCE", address)
    print(f"Installing the course from {{source}}: a few minutes, once.")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    here = subprocess.run([*pip, "list", "--format=freeze"], capture_output=True, text=True)
    keep = pathlib.Path(tempfile.mkdtemp(), "course-keeps.txt")
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



def setup_source() -> str:
    """The standard setup cell, with the repository's address filled in."""
    return SETUP.format(address=address(), branch=BRANCH)


def badge(name: str) -> str:
    """The line that opens the notebook with this key on Colab."""
    owner_and_name = address().removeprefix("https://github.com/")
    site = "https://colab.research.google.com/github"
    return f"{BADGE}({site}/{owner_and_name}/blob/{BRANCH}/notebooks/{name}.ipynb)"


def render(notebook: Any, name: str) -> None:
    """Write what every notebook shares: badge (cell `title`), card (`card`), setup (`setup`).

    A missing setup cell is put before the first code cell. What the tags fold away is folded.
    """
    from nbformat.v4 import new_code_cell

    title = cell_by_id(notebook, "title")
    if title is not None:
        lines = title.source.splitlines()
        head, *rest = [line for line in lines if not line.startswith(OLD_BADGES)]
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
    setup.metadata = {"tags": ["setup", cleaning.FOLDED]}
    cleaning.clean_cells(notebook)
