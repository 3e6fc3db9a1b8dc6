"""The repository's address: one place holds it, one command changes it everywhere.

The place is pyproject.toml; badges, setup cells and links of the pages repeat it.
"""

import re
import tomllib

from course_staff.notebooks import store
from course_utils.errors import CourseError

# Until the command has been run once: a GitHub name cannot hold "--", so this is nobody's.
STAND_IN = "your--name"
STAND_IN_NOTE = "(once `python -m course_staff address` has put the course's own address there)"


def address() -> str:
    """The repository's address, from its one place: pyproject.toml.

    Raises:
        CourseError: the course was installed from elsewhere, and this is not its repository.
    """
    place = store.ROOT / "pyproject.toml"
    if not place.is_file():
        raise CourseError(
            "This is not the course's repository.",
            "The course was installed without it.",
            "Clone the repository and run the command there.",
        )
    project = tomllib.loads(place.read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].rstrip("/")


def rewrite_address(new: str) -> list[str]:
    """Put a fork's address wherever the repository's stands; returns the changed files.

    That is every notebook's badge and setup cell, the pages at the root and, last, pyproject.toml:
    until that one is written, the command can be run again.

    Args:
        new: like "https://github.com/owner/name".

    Raises:
        CourseError: it is not the address of a GitHub repository, or a file cannot be written;
            then none is changed.
    """
    match = re.fullmatch(r"(?:https://|git@)github\.com[/:]([\w.-]+/[\w.-]+?)(?:\.git)?/?", new)
    if not match:
        raise CourseError(
            f"{new!r} is not a GitHub repository's address.",
            "Google Colab opens notebooks from GitHub only.",
            "Write it like https://github.com/owner/name.",
        )
    owner, name = map(re.escape, address().removeprefix("https://github.com/").split("/"))
    # as in links to GitHub and Colab, Binder, Codespaces; and Lightning's, which spells / as %2F
    places = re.compile(rf"((?:github(?:\.com)?|/gh|codespaces\.new)(/|%2F)){owner}\2{name}(?![\w-])")
    pages = [*sorted(store.ROOT.glob("*.md")), *sorted(store.ROOT.glob("*.cff"))]
    changed = {}
    for path in [*store.every(), *pages, store.ROOT / "pyproject.toml"]:
        text = path.read_text(encoding="utf-8")
        fresh = places.sub(lambda found: found[1] + match[1].replace("/", found[2]), text)
        fresh = fresh.replace(f" {STAND_IN_NOTE}", "")
        if fresh != text:
            changed[path] = fresh
    store.put(changed)
    return [path.relative_to(store.ROOT).as_posix() for path in changed]
