"""Reading the learner's own labelled file: (text, label) pairs, bad rows named by line.

It knows no model; whether one can learn from the pairs is `checking`'s business.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from course_utils.errors import CourseError

Examples = list[tuple[str, str]]
SHOWN_ROWS = 10  # bad rows listed in one message


def read(path: str | Path, drop: bool = False) -> Examples:
    """(text, label) pairs from a CSV, TSV or JSONL file with the columns `text` and `label`.

    Args:
        path: a `.csv` or `.tsv` file with a header, or a `.jsonl` file with an object a line.
        drop: leave bad rows out, and say which, in place of refusing the file.

    Raises:
        CourseError: there is no such file, it cannot be read as its ending says, or it has bad
            rows; each is named by line and reason.
    """
    path = Path(path)
    text = _text_of(path)
    rows = _json_rows(text) if path.suffix.lower() == ".jsonl" else _csv_rows(text, path.name)
    good: Examples = []
    bad: list[str] = []
    labels: dict[str, tuple[str, int]] = {}
    for line, text, label, reason in rows:
        reason = reason or _fault(text, label, line, labels)
        if reason:
            bad.append(f"line {line}: {reason}")
        else:
            good.append((text.strip(), label.strip()))
    if bad and not drop:
        raise CourseError(
            f"{path.name}: {len(bad)} of {len(bad) + len(good)} rows cannot be used, "
            "so nothing is read.",
            listed(bad),
            f"Mend them, or leave them out on purpose: tuning.read({path.name!r}, drop=True).",
        )
    if bad:
        print(f"{path.name}: {len(bad)} rows left out, {len(good)} kept\n  {listed(bad)}")
    return good


def listed(bad: list[str]) -> str:
    """The first bad rows, one a line, and how many more there are."""
    more = len(bad) - SHOWN_ROWS
    return "\n  ".join([*bad[:SHOWN_ROWS], *([f"and {more} more"] if more > 0 else [])])


def _text_of(path: Path) -> str:
    """The file's text, of UTF-8 with or without a byte order mark."""
    if path.suffix.lower() not in (".csv", ".tsv", ".jsonl"):
        raise CourseError(
            f"{path.name} is neither CSV nor JSONL.",
            f"Its name ends in {path.suffix or 'nothing'}.",
            "Save a table as .csv (or .tsv), or write one JSON object a line into a .jsonl file.",
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise CourseError(
            f"{path.name} is not UTF-8 text: line {line} holds other bytes.",
            "Spreadsheets often save in the encoding of their country.",
            "Save it again as 'CSV UTF-8'.",
        ) from None
    except OSError as error:
        raise CourseError(
            f"{path.name} cannot be read.", error.strerror or "", "Check the folder and the name."
        ) from None


Row = tuple[int, str, str, str]  # line, text, label, what is wrong with it ("" so far)


def _csv_rows(text: str, name: str) -> Iterator[Row]:
    """The rows of a table, each with the line it starts on."""
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns = [column.strip().lower() for column in next(reader, [])]
    if "text" not in columns or "label" not in columns:
        raise CourseError(
            f"{name} has no columns named text and label.",
            f"Its first line is: {head.strip()[:80]!r}",
            "Name the two columns in the first line: text,label",
        )
    line = 1 + reader.line_num
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                if len(fields) != len(columns):
                    reason = f"{len(fields)} fields where the first line has {len(columns)}"
                    if len(fields) > len(columns):
                        reason += "; put a text that holds a comma in quotes"
                    yield line, "", "", reason.replace("comma", _NAMES[delimiter])
                else:
                    row = dict(zip(columns, fields, strict=True))
                    yield line, row["text"], row["label"], ""
            line = 1 + reader.line_num
    except csv.Error as error:
        yield line, "", "", f"not a row of a table ({error})"


_NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}


def _json_rows(text: str) -> Iterator[Row]:
    """The objects of a JSONL file, one a line."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            yield number, "", "", f"not JSON ({getattr(error, 'msg', error)})"
            continue
        if not isinstance(row, dict):
            yield number, "", "", "not an object with text and label"
        elif missing := [key for key in ("text", "label") if key not in row]:
            yield number, "", "", f"no {' and no '.join(missing)}"
        elif wrong := [key for key in ("text", "label") if not isinstance(row[key], str)]:
            yield number, "", "", f"{wrong[0]} is {row[wrong[0]]!r}, not a text in quotes"
        else:
            yield number, row["text"], row["label"], ""


def _fault(text: str, label: str, line: int, seen: dict[str, tuple[str, int]]) -> str:
    """What is wrong with a row, "" where nothing is; `seen` collects what came before."""
    text, label = text.strip(), label.strip()
    if not text or not label:
        return "no text" if not text else "no label"
    before, where = seen.setdefault(text.lower(), (label, line))
    if where == line:
        return ""
    if before == label:
        return f"the same text as line {where}"
    return f"the same text as line {where}, with the label {label!r} in place of {before!r}"
