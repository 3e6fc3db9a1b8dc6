"""Slides and site: `python -m course_utils.publish`, and the page for instructors."""

import re

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_staff import publish
from course_staff.notebooks import store as notebooks
from course_staff.notebooks import tables

# the log of changes names commands of before
PAGES = [page for page in sorted(notebooks.ROOT.glob("*.md")) if page.name != "CHANGELOG.md"]
SITE = ("myst_nb", "sphinx_book_theme", "sphinx_revealjs")


def kinds(*cells) -> list[str]:
    notebook = new_notebook(cells=list(cells))
    publish.cut_into_slides(notebook)
    return [cell.metadata.slideshow.slide_type for cell in notebook.cells]


def test_slides_begin_at_headings_and_when_one_is_full():
    """An instructor who shows a lesson: a question and its cell stand on one slide."""
    long = "\n".join(f"line({n})" for n in range(20))
    assert kinds(
        new_markdown_cell("# 00 Start here"),
        new_code_cell("import course_utils", metadata={"tags": ["setup"]}),
        new_markdown_cell("## 1. The first answer\n\nLoad it:"),
        new_code_cell("load()"),
        new_markdown_cell("That was short."),
        new_code_cell(long),
        new_markdown_cell("That was long."),
    ) == ["slide", "skip", "slide", "-", "-", "-", "subslide"]


def test_outputs_take_room():
    """An instructor whose plot should not push the next question off the slide."""
    plot = new_output("display_data", data={"image/png": "", "text/plain": "a plot"})
    code = new_code_cell("plot()", outputs=[plot])
    assert kinds(code, new_markdown_cell("What it means.")) == ["-", "subslide"]


@pytest.mark.slow
def test_slides_and_site_need_no_network(tmp_path):
    """An instructor in a room without a network: nothing comes from elsewhere."""
    for module in SITE:
        pytest.importorskip(module, reason='pip install -e ".[site]"')
    pages = publish.slides(tmp_path / "slides") + publish.site(tmp_path / "site")
    assert len(pages) == len(notebooks.lessons()) + 1
    everything = pages + [tmp_path / "site" / "notebooks" / f"{path.stem}.html" for path in
                          notebooks.lessons()]  # fmt: skip
    loads = re.compile(r'(?:<script[^>]*src|<link[^>]*href|<img[^>]*src)="(https?://[^"]+)"')
    for page in everything:
        found = set(loads.findall(page.read_text(encoding="utf-8")))
        assert not found, page.name
    assert (tmp_path / "slides" / "reveal.js" / "dist" / "reveal.js").is_file()


def test_the_plan_has_every_lesson_with_its_minutes():
    """An instructor who plans a day by INSTRUCTORS.md."""
    text = (notebooks.ROOT / "INSTRUCTORS.md").read_text(encoding="utf-8")
    for _, course in tables.courses():
        row = f"| {course['lesson']} {course['title']} | {course['minutes']} |"
        assert row in text, f"INSTRUCTORS.md has no row that begins {row}"
        assert f"### {course['lesson']} {course['title']}" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_a_page_names_exist(page):
    """An instructor who copies a command from a page."""
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w -]+):", (notebooks.ROOT / "Makefile").read_text(), re.M))
    targets = {one for line in targets for one in line.split()}
    for name in set(re.findall(r"(?:^|`)make ([\w-]+)", text, re.M)):
        assert name in targets, f"make {name}"
