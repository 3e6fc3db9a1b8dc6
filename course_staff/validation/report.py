"""The report of `validate`, written: one HTML file that opens in any browser, one JSON file.

It knows the report's data only (see `validate.validate`); it runs nothing. Differences are shown
by difflib: nbdime compares two notebooks on disk, and here one side never was on disk.
"""

import contextlib
import html
import json
import tempfile
from difflib import HtmlDiff
from itertools import takewhile
from pathlib import Path
from typing import Any

from course_staff.notebooks import store
from course_staff.validation.validate import KINDS
from course_utils.errors import CourseError

Json = dict[str, Any]
LINES, WIDTH = 200, 60  # of an output: more is not read, and takes long to compare
STYLE = """
:root { color-scheme: light dark; --line: #8886; --bad: #c0392b; --good: #1e8449;
        --less: #f9d5d1; --more: #d3efdb; --other: #fbeaba; }
@media (prefers-color-scheme: dark) {
  :root { --bad: #ff8a7a; --good: #6fd08c; --less: #5c2620; --more: #1f4a2c; --other: #574414; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; }
.wide { overflow-x: auto; }
.all td, .all th { border-bottom: 1px solid var(--line); padding: .3rem .8rem; text-align: right; }
.all td:first-child, .all td:nth-child(2), .all th:first-child { text-align: left; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
a { color: inherit; }
pre, .diff { font: 13px/1.4 ui-monospace, monospace; }
pre { overflow-x: auto; border-left: 3px solid var(--line); padding-left: .8rem; }
.diff { margin: .5rem 0; } .diff td { padding: 0 .5rem; vertical-align: top; }
.diff .diff_next, .diff colgroup, .diff_header { display: none; }
.diff th { text-align: left; padding-left: .5rem; }
.diff td[nowrap] { border-left: 1px solid var(--line); }
.diff_add { background: var(--more); } .diff_sub { background: var(--less); }
.diff_chg { background: var(--other); }
"""


def folded(text: str) -> list[str]:
    """A text in lines of at most `WIDTH` characters: difflib's own folding fails on long ones."""
    return [
        line[start : start + WIDTH]
        for line in text.splitlines()
        for start in range(0, max(1, len(line)), WIDTH)
    ]


def difference(stored: str, fresh: str) -> str:
    """What is stored beside what came out now, as an HTML table, from the first difference on."""
    old, new = folded(stored), folded(fresh)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
    left_out = max(0, same - 2)
    old, new = old[left_out:], new[left_out:]
    cut = max(len(old), len(new)) > LINES
    table = HtmlDiff(tabsize=4).make_table(
        old[:LINES], new[:LINES], "stored", "now", context=True, numlines=2
    )
    note = f"<p>Only {LINES} lines from the first difference on are shown.</p>" if cut else ""
    heads = "<tr><th>stored</th><th>now</th></tr>"
    body = table.partition("<tbody>")[2].partition("</tbody>")[0]
    return f'<div class="wide"><table class="diff">{heads}{body}</table></div>{note}'


def _cell(cell: Json) -> str:
    """A changed cell: what happened, its code, the difference, the traceback."""
    name, code = html.escape(cell["cell"]), html.escape(cell["source"])
    says = "" if cell["kind"] == "changed" else f": {html.escape(cell['says'])}"
    trace = html.escape(cell["traceback"])
    parts = [
        f"<h3>Cell <code>{name}</code> {KINDS[cell['kind']]}{says}</h3>",
        f"<details><summary>Code</summary><pre>{code}</pre></details>",
        difference(cell["stored"], cell["fresh"]),
    ]
    if trace:
        parts.append(f"<details><summary>Traceback</summary><pre>{trace}</pre></details>")
    return "\n".join(parts)


def _notebook(result: Json) -> str:
    """The section of a notebook that did not pass: problems, the first changed cell, the rest."""
    cells = [_cell(cell) for cell in result["changed"]]
    problems = "".join(f"<li>{html.escape(one)}</li>" for one in result["problems"])
    name = html.escape(result["notebook"])
    parts = [f'<h2 id="{name}">{name}</h2>', f"<ul>{problems}</ul>", *cells[:1]]
    if cells[1:]:
        parts.append(
            f"<details><summary>{len(cells) - 1} more changed cells, perhaps because of this one"
            f"</summary>{''.join(cells[1:])}</details>"
        )
    return "\n".join(parts)


def _row(result: Json) -> str:
    """A notebook's line in the table."""
    said = '<td class="good">passed' if result["passed"] else '<td class="bad">failed'
    name = html.escape(result["notebook"])
    name = name if result["passed"] else f'<a href="#{name}">{name}</a>'
    card = result["card"]
    minutes = "" if card["run_minutes"] is None else f" of {card['run_minutes']:g}"
    memory = "" if card["memory_gib"] is None else f" of {card['memory_gib']:g}"
    return (
        f"<tr><td>{name}</td>{said}</td><td>{result['cells']}</td>"
        f"<td>{len(result['changed'])}</td><td>{len(result['problems'])}</td>"
        f"<td>{result['minutes']:.1f}{minutes} min</td>"
        f"<td>{result['peak_gib']:.2f}{memory} GiB</td></tr>"
    )


def as_html(report: Json) -> str:
    """The whole report as one page that needs no other file."""
    failed = [result for result in report["notebooks"] if not result["passed"]]
    bad = len(failed) + bool(report["between"])
    total = len(report["notebooks"])
    title = "All notebooks pass" if not bad else f"{total - len(failed)} of {total} notebooks pass"
    between = "".join(f"<li>{html.escape(one)}</li>" for one in report["between"])
    rows = "\n".join(_row(result) for result in report["notebooks"])
    have = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width">',
        f"<style>{STYLE}</style>",
        f'<h1 class="{"bad" if bad else "good"}">{title}</h1>',
        f"<p>{report['made']}, {report['seconds']} s. {html.escape(have)}</p>",
        '<div class="wide"><table class="all"><tr><th>notebook<th><th>cells<th>changed',
        "<th>problems<th>time, and on its card<th>peak memory, and on its card</tr>",
        f"{rows}</table></div>",
        f"<h2>Between the files</h2><ul>{between}</ul>" if between else "",
        *(_notebook(result) for result in failed),
    ]
    return "\n".join(parts) + "\n"


def prepare(folder: Path) -> None:
    """Make the report's folder, before the minutes of running; what it holds stays.

    Raises:
        CourseError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CourseError(
            f"No report can be written into {folder}.",
            f"{error.strerror}.",
            "Name another folder after --report.",
        ) from None


def write(report: Json, folder: Path) -> Path:
    """Write `report.html` and `report.json` into `folder`; returns the page.

    Both or none: what cannot be written leaves no older report behind that could pass for it.

    Raises:
        CourseError: the disk is full, or the folder cannot be written to.
    """
    page, data = folder / "report.html", folder / "report.json"
    texts = {data: json.dumps(report, indent=1, ensure_ascii=False) + "\n", page: as_html(report)}
    prepare(folder)
    for old in texts:
        with contextlib.suppress(OSError):  # `put` says why
            old.unlink(missing_ok=True)
    store.put(texts)
    return page
