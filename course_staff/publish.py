"""The lessons as slides and as a web site: `python -m course_staff publish slides|site FOLDER`.

Both are made from what is stored in the notebooks; nothing is executed. Slides are Jupyter's own
export (nbconvert, reveal.js), the site is Sphinx with MyST-NB. Both open from disk and need no
network. For instructors: install the extra `site`.
"""

import math
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from course_staff.notebooks import store
from course_utils.errors import CourseError

LINES = 22  # of a slide; a cell is never cut in two, so one may be longer: it scrolls
PICTURE = 14  # lines that a picture takes
WIDTH = 95  # characters of a line of text on a slide
# nbconvert's own template loads jQuery, RequireJS, MathJax and reveal.js from other servers.
TEMPLATE = """\
{% extends 'index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_css %}<style>
.reveal .slides section { text-align: left; }
.reveal .slides section section { max-height: 96vh; overflow-y: auto; }
.reveal .slides h1, .reveal .slides h2, .reveal .slides h3 { text-transform: none; }
.reveal table { font-size: .8em; } .reveal pre { width: 100%; box-shadow: none; font-size: 1em; }
.jp-InputPrompt, .jp-OutputPrompt, .jp-InputCollapser, .jp-OutputCollapser { display: none; }
</style>{% endblock %}
{% block footer_js %}
<script src="reveal.js/dist/reveal.js"></script>
<script>
Reveal.initialize({width: 1280, height: 800, hash: true, center: false, slideNumber: "c/t",
                   transition: "none"});
</script>
{% endblock %}
"""
INDEX = """\
```{include} README.md
```

```{toctree}
:hidden:
:caption: Lessons
LESSONS
```

```{toctree}
:hidden:
:caption: Solutions
SOLUTIONS
```

```{toctree}
:hidden:
:caption: Teaching
PAGES
```
"""
SPHINX = {
    "project": "Open LLMs, hands-on",
    "html_title": "Open LLMs, hands-on",
    "extensions": ["myst_nb"],
    "html_theme": "sphinx_book_theme",
    "nb_execution_mode": "off",
    "myst_heading_anchors": 3,
    "html_theme_options": {"show_toc_level": 2, "navbar_persistent": []},
    "html_copy_source": False,
    "html_show_copyright": False,
    # a link to a file of the repository has no page here; a code cell may hold a magic
    "suppress_warnings": ["myst.xref_missing", "myst.header", "misc.highlighting_failure"],
}


def _need(module: str) -> Path:
    """The folder of an installed package of the extra `site`."""
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise CourseError(
            f"{module} is not installed.",
            "Slides and the site need a few more packages.",
            'Run: pip install -c constraints.txt -e ".[site]"',
        )
    return Path(spec.submodule_search_locations[0])


# -- slides -------------------------------------------------------------------------------------


def height(cell: Any) -> int:
    """About how many lines a cell takes on a slide, its outputs included."""
    lines = sum(max(1, math.ceil(len(line) / WIDTH)) for line in cell.source.splitlines())
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        text = output.get("text", "") or data.get("text/plain", "")
        lines += PICTURE if "image/png" in data else len(text.splitlines())
    return lines + 1


def cut_into_slides(notebook: Any) -> None:
    """Write into each cell's metadata where a slide begins: at headings, and when one is full.

    Headings go from left to right, what follows within a section from top to bottom.
    """
    filled, after_code = 0, False
    for cell in notebook.cells:
        text = cell.cell_type == "markdown"
        # a text stays with the code that it introduces, so it begins no slide that is half full
        room = LINES / 2 if text else LINES if after_code else math.inf
        kind = "-"
        if "setup" in cell.metadata.get("tags", []):
            kind = "skip"
        elif text and cell.source.startswith(("# ", "## ")):
            kind, filled = "slide", 0
        elif filled and filled + height(cell) > room:
            kind, filled = "subslide", 0
        if kind != "skip":
            filled, after_code = filled + height(cell), not text
        cell.metadata["slideshow"] = {"slide_type": kind}


def slides(folder: Path) -> list[Path]:
    """Write one HTML page of slides for every lesson, and reveal.js beside them.

    Raises:
        CourseError: the extra `site` is not installed.
    """
    reveal = _need("sphinx_revealjs") / "_static" / "revealjs"
    from nbconvert import SlidesExporter

    folder.mkdir(parents=True, exist_ok=True)
    for part in ("dist", "LICENSE"):
        if (reveal / part).is_dir():
            shutil.copytree(reveal / part, folder / "reveal.js" / part, dirs_exist_ok=True)
        elif (reveal / part).is_file():
            shutil.copy(reveal / part, folder / "reveal.js")
    exporter = SlidesExporter(
        raw_template=TEMPLATE, reveal_url_prefix="reveal.js", reveal_theme="white"
    )
    pages = []
    for path in store.lessons():
        notebook = store.read(path)
        cut_into_slides(notebook)
        body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": path.stem}})
        pages.append(folder / f"{path.stem}.html")
        pages[-1].write_text(body, encoding="utf-8")
    return pages


# -- site ---------------------------------------------------------------------------------------


def site_source(folder: Path) -> None:
    """Lay out what the site is made of: pages and notebooks, as in the repository, and an index."""
    pages = sorted(store.ROOT.glob("*.md"))
    for path in [*pages, *store.every()]:
        target = folder / path.relative_to(store.ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(store.ROOT / "LICENSE", folder)
    keys = [f"notebooks/{store.key(path)}" for path in store.every()]
    index = INDEX.replace("LESSONS", "\n".join(key for key in keys if "solutions" not in key))
    index = index.replace("SOLUTIONS", "\n".join(key for key in keys if "solutions" in key))
    index = index.replace("PAGES", "\n".join(p.stem for p in pages if p.stem != "README"))
    (folder / "index.md").write_text(index, encoding="utf-8")


def site(folder: Path) -> list[Path]:
    """Write a static site of all lessons and solutions with their outputs.

    Raises:
        CourseError: the extra `site` is not installed, or Sphinx cannot build it.
    """
    for module in ("myst_nb", "sphinx_book_theme"):
        _need(module)
    from sphinx.application import Sphinx

    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary, "source")
        source.mkdir()
        site_source(source)
        options = {**SPHINX, "exclude_patterns": ["README.md"]}
        doctrees = Path(temporary, "doctrees")
        app = Sphinx(source, None, folder, doctrees, "html", options, status=None)
        app.build()
    if app.statuscode:
        raise CourseError("Sphinx could not build the site.", "", "Read what it says above.")
    return [folder / "index.html"]
