"""The links of all pages and notebooks: `python -m tests.links [--web]`.

Without `--web` it looks at links between files and to headings, which `tests/house/test_links.py`
holds at every push; with it also whether the web pages still answer, as the weekly workflow asks.
Addresses of this machine, examples and the repository's own are not asked.
"""

import argparse
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

from course_staff.notebooks import address
from course_staff.notebooks import store as notebooks

LINK = re.compile(
    r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(\s*(?:<([^>]+)>|([^)\s]+))(?:\s+\"[^\"]*\")?\s*\)"
)
BARE = re.compile(r"https?://[^\s)>\]\"'`|]+")
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.S | re.M)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*\s*$", re.M)
NOT_ASKED = re.compile(r"localhost|127\.0\.0\.1|YOUR|example\.|\.invalid|/you/", re.I)
# They turn programs away, or ask for an account: an answer, if not a page.
ANSWERS = {401, 403, 405, 406, 418, 429, 999}


def pages() -> list[Path]:
    """Every Markdown page and every notebook of the repository."""
    root = notebooks.ROOT
    found = [*root.glob("*.md"), *root.glob("*/*.md"), *root.glob("course_utils/*/*.md")]
    hidden = [path for path in found if path.relative_to(root).parts[0].startswith((".", "build"))]
    return sorted({*found} - {*hidden}) + notebooks.every()


def prose(path: Path) -> str:
    """A page's text, or a notebook's text cells."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = [cell.source for cell in notebooks.read(path).cells if cell.cell_type == "markdown"]
    return "\n\n".join(cells)


def anchors(text: str) -> set[str]:
    """What `#…` can name in a page: headings as GitHub and as JupyterLab write them, and ids."""
    found = set(re.findall(r"<a (?:id|name)=[\"']([^\"']+)", text))
    for heading in HEADING.findall(re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.S | re.M)):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        found.add(re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-"))
        found.add(plain.replace(" ", "-"))
    return found


def targets(text: str) -> list[str]:
    """Where the links of a text lead."""
    return [one or other for one, other in LINK.findall(CODE.sub("", text))]


def broken(path: Path) -> Iterator[str]:
    """Links of one page that lead to no file or heading, one sentence each."""
    text = prose(path)
    for link in targets(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists():
            yield f"{path.name}: {link} leads to no file"
        elif not target.is_relative_to(notebooks.ROOT.resolve()):
            yield f"{path.name}: {link} leads out of the repository"
        elif anchor and target.suffix in (".md", ".ipynb"):
            there = text if target == path else prose(target)
            if anchor not in anchors(there):
                yield f"{path.name}: {link} leads to no heading"


def web() -> dict[str, list[str]]:
    """{address: the pages it stands in} of all that lead into the web."""
    found: dict[str, list[str]] = {}
    own = address.address()
    for path in pages():
        for link in {one.rstrip(".,;:") for one in BARE.findall(prose(path))}:
            if not NOT_ASKED.search(link) and own.removeprefix("https://github.com") not in link:
                found.setdefault(link.partition("#")[0], []).append(path.name)
    return found


def answers(link: str) -> str:
    """Empty where a web page answers, else why not."""
    request = urllib.request.Request(link, headers={"User-Agent": "Mozilla/5.0 (link check)"})
    for _ in range(2):
        try:
            with urllib.request.urlopen(request, timeout=30):
                return ""
        except urllib.error.HTTPError as error:
            if error.code in ANSWERS:
                return ""
            said = f"{error.code} {error.reason}"
        except OSError as error:
            said = str(error)
    return said


def main() -> int:
    """Print what leads nowhere; 1 where something does."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--web", action="store_true", help="ask the web pages too")
    args = parser.parse_args()
    found = [line for path in pages() for line in broken(path)]
    if args.web:
        links = web()
        with ThreadPoolExecutor(8) as pool:
            for link, said in zip(links, pool.map(answers, links), strict=True):
                found += [f"{', '.join(links[link])}: {link}: {said}"] if said else []
    print("\n".join(found) or "All links lead somewhere.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
