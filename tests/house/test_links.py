"""Links between pages, lessons and headings; the web's are asked by `make links`, weekly."""

import pytest

from course_staff.notebooks import store as notebooks
from tests import links


@pytest.mark.parametrize(
    "path", links.pages(), ids=lambda path: path.relative_to(notebooks.ROOT).as_posix()
)
def test_every_link_leads_to_a_file_or_heading(path):
    """A learner who clicks a link gets to what it names."""
    assert list(links.broken(path)) == []


PAGE = """# One thing: `code` & more

[a](other.md) [b](other.md#two) [c](#one-thing-code--more) ![d](pic.svg) [e](<a b.md>)
`[not](a-link.md)` [web](https://example.org/x) [mail](mailto:a@b.c)

```
[not](a-link-either.md)
```
"""


def test_what_leads_nowhere_is_named(tmp_path, monkeypatch):
    """A maintainer who renames a page or a heading is told who linked to it."""
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    said = [line.partition(": ")[2] for line in links.broken(page)]
    names = ("other.md", "other.md#two", "pic.svg", "a b.md")
    assert said == [f"{name} leads to no file" for name in names]
    (tmp_path / "other.md").write_text("# Two\n\n```\n# not a heading\n```\n")
    (tmp_path / "pic.svg").write_text("")
    (tmp_path / "a b.md").write_text("")
    assert list(links.broken(page)) == []
    page.write_text("[x](other.md#not-a-heading) [y](../other.md)")
    assert [line.partition(" leads ")[2] for line in links.broken(page)] == [
        "to no heading",
        "to no file",
    ]
