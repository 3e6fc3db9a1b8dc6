"""The cells that every notebook shares: the links to machines that run it, the card, the setup."""

from typing import Any
from urllib.parse import quote

from course_staff.notebooks import cards, cleaning
from course_staff.notebooks.address import STAND_IN, STAND_IN_NOTE, address
from course_staff.notebooks.store import cell_by_id

BRANCH = "main"
# Text and no picture: one from the network is the first thing that is broken without a network,
# and one beside the notebook is not there on Colab, which opens a notebook alone.
BADGE = "Open in [Colab]"
OLD_BADGES = ("[![Open In Colab]", "[Open in Colab]", BADGE)
# The same in every notebook. It has to work in a bare .ipynb, so it can use nothing of ours until
# the course is there. What is installed already is handed to pip as a constraint: replacing a
# package that the kernel has imported would ask for a restart. Where that leaves no way (Kaggle's
# packages are older than Colab's), only what is loaded has to stay, and what is large or drawn.
SETUP = """\
# @title Setup: run this first. Where the course is missing, as on Colab or Kaggle, it is added.
import importlib.metadata, importlib.util, os, pathlib, subprocess, sys, tempfile

if importlib.util.find_spec("course_utils") is None:
    stop = type("SetupError", (Exception,), {{"_render_traceback_": lambda e: [str(e)]}})
    source = os.environ.get("COURSE_SOURCE", "git+{address}@{branch}")
    if "{stand_in}" in source:
        raise stop("This copy of the course has no address yet. Set os.environ['COURSE_SOURCE'] "
                   "to a folder or a pip address that holds the course, and run this cell again.")
    print(f"Installing the course from {{source}}: a few minutes, once.")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    here = subprocess.run([*pip, "list", "--format=freeze"], capture_output=True, text=True)
    moves = ("datasets==", "pyarrow==")  # trl asks for newer ones than Colab has
    every = [p for p in here.stdout.split() if not p.startswith(moves)]
    homes = importlib.metadata.packages_distributions()
    loaded = {{home for name in [*sys.modules] for home in homes.get(name, ())}}
    loaded |= {{"torch", "ipywidgets"}}
    keep = pathlib.Path(tempfile.mkdtemp(), "course-keeps.txt")
    for kept in (every, [p for p in every if p.partition("==")[0] in loaded]):
        keep.write_text("\\n".join(kept))
        done = subprocess.run([*pip, "install", "-qc", keep, source], capture_output=True, text=True)
        if "conflict" not in done.stderr:
            break
    if done.returncode:  # end in a message, without a traceback
        raise stop(f"The course could not be installed. pip says:\\n{{done.stderr[-800:]}}\\n"
                   "Next: check the network (on Kaggle: Settings, Turn on internet), or set "
                   "COURSE_SOURCE to a folder or address that holds the course, and run it again.")
    importlib.invalidate_caches()

from course_utils import models, settings

settings.prepare()
print(models.said_by())"""


def setup_source() -> str:
    """The standard setup cell, with the repository's address filled in."""
    return SETUP.format(address=address(), branch=BRANCH, stand_in=f"/{STAND_IN}/")


def links(file: str) -> dict[str, str]:
    """{service: the address that opens this file of the repository there}."""
    site = address()
    owner_and_name = site.removeprefix("https://github.com/")
    page = f"{site}/blob/{BRANCH}/{file}"
    return {
        "Colab": f"https://colab.research.google.com/github/{owner_and_name}/blob/{BRANCH}/{file}",
        "Kaggle": f"https://www.kaggle.com/kernels/welcome?src={page}",
        "Lightning": f"https://lightning.ai/new?repo_url={quote(page, safe='')}",
        "Binder": f"https://mybinder.org/v2/gh/{owner_and_name}/{BRANCH}?urlpath=lab/tree/{file}",
        "Codespaces": f"https://codespaces.new/{owner_and_name}?quickstart=1",
    }


def badge(name: str) -> str:
    """The line that opens the notebook with this key on free machines."""
    found = links(f"notebooks/{name}.ipynb")
    said = "Open in " + " · ".join(f"[{service}]({link})" for service, link in found.items())
    return said + (f" {STAND_IN_NOTE}" if f"/{STAND_IN}/" in address() else "")


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
