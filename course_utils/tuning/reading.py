"""Reading the learner's own labelled file: (text, label) pairs, bad rows named by line.

Every line of the file is read or named with its reason. Tables go through the csv module strictly
and one row at a time: given a whole file, it lets a quote that is never closed swallow the rows
after it, and so does pandas. This module knows no model; whether one can learn from the pairs is
`checking`'s business.
"""

import csv
import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from course_utils.errors import CourseError

Examples = list[tuple[str, str]]
SHOWN_ROWS = 10  # bad rows listed in one message
LONGEST_ROW = 200  # lines that one quoted text may run over
COLUMNS = ("text", "label")
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
KINDS = {  # how files begin that are no text, whatever their name says
    b"PK\x03\x04": "an Excel workbook or another zipped file",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x1f\x8b": "a gzip file",
    b"%PDF": "a PDF",
    b"PAR1": "a Parquet file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"SQLite format 3": "an SQLite database",
    b"\x89PNG": "a picture",
    b"version https://git-lfs": "Git LFS's note of where the file lies (git lfs pull fetches it)",
    b"{\\rtf": "a Rich Text document",
    b"\xff\xfe": "UTF-16 text (Excel calls it Unicode text)",
    b"\xfe\xff": "UTF-16 text (Excel calls it Unicode text)",
}
# control characters, zero-width spaces, a byte order mark, marks that turn the writing round;
# not line breaks, not the joiners inside emoji and Persian words, and not the hard spaces of French
HIDDEN = re.compile(
    "[\x01-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]"
)
# what programs write for an empty cell, or for a formula that failed
MISSING = re.compile(r"nan|NaN|NULL|\\N|<NA>|#(N/A|NAME\?|REF!|VALUE!|DIV/0!|NUM!|NULL!)")
Row = tuple[int, str, str, str]  # line, text, label, what is wrong with it ("" so far)


def read(path: str | Path, drop: bool = False) -> Examples:
    """(text, label) pairs from a CSV, TSV or JSONL file with the columns `text` and `label`.

    Args:
        path: a `.csv` or `.tsv` file with a header, or a `.jsonl` file with an object a line.
        drop: leave bad rows out, and say which, in place of refusing the file.

    Raises:
        CourseError: there is no such file, it cannot be read as its ending says, or it has bad
            rows; each is named by line and reason.
    """
    path = Path(path).expanduser()
    lines = re.split(r"\r\n|\n|\r", _text_of(path))
    rows = _json_rows if path.suffix.lower() == ".jsonl" else _table_rows
    good: Examples = []
    bad: list[str] = []
    seen: dict[str, tuple[str, int]] = {}
    for line, text, label, reason in rows(lines, path.name):
        reason = reason or _fault(text, label, line, seen)
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
    if not good and not bad:
        raise CourseError(
            f"{path.name} holds no rows.",
            "There is nothing in it, or nothing below its first line.",
            "Save the table again with its rows, or check that this is the right file.",
        )
    if bad:
        print(f"{path.name}: {len(bad)} rows left out, {len(good)} kept\n  {listed(bad)}")
    return good


def listed(bad: list[str]) -> str:
    """The first bad rows, one a line, and how many more there are."""
    more = len(bad) - SHOWN_ROWS
    return "\n  ".join([*bad[:SHOWN_ROWS], *([f"and {more} more"] if more > 0 else [])])


def unseen(text: str) -> list[str]:
    """The characters of a text that cannot be seen, or be told from a space, by name."""
    kinds = {c: unicodedata.category(c) for c in dict.fromkeys(text)}
    odd = [c for c, kind in kinds.items() if kind in ("Cc", "Cf", "Zs", "Zl", "Zp") and c != " "]
    return [f"U+{ord(c):04X} {unicodedata.name(c, 'CONTROL CHARACTER')}" for c in odd]


def visible(text: str) -> str:
    """A text as it looks: composed, every run of spaces one, without what cannot be seen."""
    kept = "".join(c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c) != "Cf")
    return " ".join(kept.split())


def _text_of(path: Path) -> str:
    """The file's text, of UTF-8 with or without a byte order mark."""
    ending = path.suffix.lower()
    if ending not in (".csv", ".tsv", ".jsonl"):
        raise CourseError(
            f"{path.name} is neither CSV nor JSONL.",
            f"Its name ends in {ending or 'nothing'}.",
            "Save a table as .csv (or .tsv), or write one JSON object a line into a .jsonl file.",
        )
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CourseError(
            f"{path.name} cannot be read.",
            f"{error.strerror}: {path.absolute()}",
            "Check the folder and the name.",
        ) from None
    save = "Open it in your spreadsheet or editor and save it again as 'CSV UTF-8'."
    kind = next((kind for start, kind in KINDS.items() if raw.startswith(start)), "")
    if not kind and raw[:400].count(b"\0") > len(raw[:400]) // 4:
        kind = "UTF-16 text, or no text at all"
    if not kind and re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|\?xml)", raw, re.IGNORECASE):
        kind, save = "a web page", "Download the file itself: the address showed a page about it."
    if kind:
        raise CourseError(
            f"{path.name} is no table, whatever its name says.", f"It is {kind}.", save
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(re.split(rb"\r\n|\n|\r", raw[: error.start]))
        odd = raw[error.start : error.start + 1]
        raise CourseError(
            f"{path.name} is not UTF-8 text: line {line} holds other bytes.",
            f"The byte 0x{odd.hex().upper()} is {odd.decode('cp1252', 'replace')!r} in Windows' "
            "western encoding. Spreadsheets often save in the encoding of their country.",
            "Save it again as 'CSV UTF-8'.",
        ) from None
    _check_json(text, path.name, ending)
    return text


def _check_json(text: str, name: str, ending: str) -> None:
    """Raise `CourseError` where JSON is a list, or called a table."""
    if ending == ".jsonl" and text.lstrip().startswith("["):
        raise CourseError(
            f"{name} is one JSON list, not JSONL.",
            "JSONL has an object on every line and nothing around them.",
            "In Python: write json.dumps(row) for each row of the list, one a line.",
        )
    if ending != ".jsonl" and re.match(r"\s*(\[\s*)?\{", text):
        raise CourseError(
            f"{name} is no table, whatever its name says.",
            "It holds JSON.",
            "Write one object a line, and let the file's name end in .jsonl.",
        )


def _table_rows(lines: list[str], name: str) -> Iterator[Row]:
    """The rows of a table, each with the line it starts on."""
    start, separator, columns = _header(lines, name)
    places = [columns.index(column) for column in COLUMNS]
    alone = [_label_of(line, separator, columns) for line in lines]
    known, number = _known(lines, start, separator, columns), start
    while number < len(lines):
        first, (fields, number, reason) = number, _record(lines, number, separator)
        if not reason and not any(field.strip() for field in fields):
            continue
        if not reason and number > first + 1:
            unquoted = _label_of(lines[first].replace('"', "", 1), separator, columns)
            inside = [unquoted, *alone[first + 1 : number - 1]]
            word = r"[\w-]+" if len(columns) == 2 else ".+"  # of a text's own lines, few end so
            rows = len(inside) > 1 and all(re.fullmatch(word, label) for label in inside)
            if rows or known & set(inside) or len(fields) != len(columns):
                reason = f"a quote opens here and closes on line {number}, with other rows between"
                number = first + 1
        elif not reason and len(fields) != len(columns):
            reason = f"{len(fields)} fields where the first line has {len(columns)}"
            if len(fields) > len(columns):
                reason += f"; put a text that holds a {SEPARATORS[separator]} in quotes"
                reason += ', straight ones (")' if re.search("[“”„]", lines[first]) else ""
        text, label = ("", "") if reason else (fields[place] for place in places)
        yield first + 1, text, label, reason


def _known(lines: list[str], number: int, separator: str, columns: list[str]) -> set[str]:
    """The labels that rows end up with when every quote runs as far as it may."""
    known = set()
    while number < len(lines):
        fields, number, _ = _record(lines, number, separator)
        if len(fields) == len(columns):
            known.add(fields[columns.index("label")].strip())
    return known - {""}


def _label_of(line: str, separator: str, columns: list[str]) -> str:
    """The label that a line has if it is a row by itself, else ""."""
    fields, reason = _fields([line], separator)
    return "" if reason or len(fields) != len(columns) else fields[columns.index("label")].strip()


def _header(lines: list[str], name: str) -> tuple[int, str, list[str]]:
    """(the line after the header, separator, column names) of a table."""
    start = next((n for n, line in enumerate(lines) if line.strip()), 0)
    told = re.fullmatch(r"\W?sep=(.)\W*", lines[start].strip(" "), re.I) if lines else None
    if told and told[1] in SEPARATORS:  # Excel's own first line
        start = next((n for n in range(start + 1, len(lines)) if lines[n].strip()), start + 1)
    head = lines[start] if start < len(lines) else ""
    for separator in SEPARATORS:
        fields, reason = _fields([head.lstrip("\ufeff")], separator)
        columns = [visible(field).casefold() for field in fields]
        if not reason and set(COLUMNS) <= set(columns):
            break
    else:
        raise CourseError(
            f"{name} has no columns named text and label."
            if head
            else f"{name} is empty: it has no columns named text and label.",
            f"Its first line is: {head.strip()[:80]!r}",
            "Name the two columns in the first line: text,label"
            + (". Delete the line sep= above it." if told else ""),
        )
    twice = [column for column in COLUMNS if columns.count(column) > 1]
    if twice:
        raise CourseError(
            f"{name} has two columns named {twice[0]}.",
            f"Its first line is: {head.strip()[:80]!r}",
            "Give one of them another name.",
        )
    return start + 1, separator, columns


def _fields(lines: list[str], separator: str) -> tuple[list[str], str]:
    """The fields of one row, on one line or several, and what is wrong with it."""
    row = [line + "\n" for line in lines]
    try:
        found = list(csv.reader(row, delimiter=separator, strict=True, skipinitialspace=True))
    except csv.Error as error:
        if "unexpected end" in str(error):
            return [], "a quote opens here and is not closed"
        if "expected after" in str(error):
            return [], (
                "a quote that is closed before the field ends; write quotes inside a text twice "
                '("He said ""no"" to it."), and nothing between a closing quote and the separator'
            )
        return [], f"not a row of a table ({error})"
    return (found[0], "") if len(found) == 1 else ([], "several rows" if found else "")


def _record(lines: list[str], number: int, separator: str) -> tuple[list[str], int, str]:
    """(fields, the line after it, what is wrong) of the row that starts on a line."""
    fields, reason = _fields(lines[number : number + 1], separator)
    if "not closed" not in reason:
        return fields, number + 1, reason
    for end in range(number + 2, min(number + LONGEST_ROW, len(lines)) + 1):
        if lines[end - 1].count('"') % 2:  # the quote closes here, or nowhere
            fields, wrong = _fields(lines[number:end], separator)
            return (fields, end, "") if not wrong else ([], number + 1, reason)
    return [], number + 1, reason


def _json_rows(lines: list[str], name: str) -> Iterator[Row]:
    """The objects of a JSONL file, one a line."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            yield number, "", "", f"not JSON ({getattr(error, 'msg', error)})"
            continue
        if not isinstance(row, dict):
            yield number, "", "", "not an object with text and label"
        elif missing := [key for key in COLUMNS if key not in row]:
            yield number, "", "", f"no {' and no '.join(missing)}"
        elif wrong := [key for key in COLUMNS if not isinstance(row[key], str)]:
            yield number, "", "", f"{wrong[0]} is {row[wrong[0]]!r}, not a text in quotes"
        else:
            yield number, row["text"], row["label"], ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose text and label are given once, in any capitals, as a table's columns."""
    keys = [visible(key).casefold() for key, _ in pairs]
    twice = [key for key in COLUMNS if keys.count(key) > 1]
    if twice:
        raise ValueError(f"the key {twice[0]!r} stands twice")
    return dict(zip(keys, (value for _, value in pairs), strict=True))


def _no_number(name: str) -> None:
    """Refuse what Python writes and JSON does not know."""
    raise ValueError(f"{name} is no JSON")


def _fault(text: str, label: str, line: int, seen: dict[str, tuple[str, int]]) -> str:
    """What is wrong with a row, "" where nothing is; `seen` collects what came before."""
    if (text.strip().casefold(), label.strip().casefold()) == COLUMNS:
        return "the first line again"
    if any("\ud800" <= c <= "\udfff" for c in text + label):
        return "half a character (half an emoji, mostly), cut in the middle"
    if "\0" in text + label:
        return "a NUL character (U+0000), which no text holds"
    if not visible(text) or not visible(label):
        return "no text" if not visible(text) else "no label"
    label = label.strip()
    if gone := next((part for part in (text.strip(), label) if MISSING.fullmatch(part)), ""):
        return f"{gone}, which programs write for an empty cell or a failed formula"
    if "\ufffd" in text + label:
        return "the mark U+FFFD, which stands where another program lost a character"
    if odd := unseen(label) or unseen("".join(HIDDEN.findall(text))):
        what = f"the label {label!r}" if unseen(label) else "the text"
        return f"{what} holds a character that cannot be seen: {odd[0]}"
    before, where = seen.setdefault(visible(text).casefold(), (label, line))
    if where == line:
        return ""
    if before == label:
        return f"the same text as line {where}"
    return f"the same text as line {where}, with the label {label!r} in place of {before!r}"
