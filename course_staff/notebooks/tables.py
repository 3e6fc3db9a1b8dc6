"""What repeats the lessons' cards elsewhere: the README's table and `data/lessons.json`."""

import json
import re
from pathlib import Path
from typing import Any

from course_staff.notebooks import cards, store


def courses() -> list[tuple[Path, Any]]:
    """(path, card metadata) of every lesson that has any, in reading order."""
    found = [(path, store.read(path).metadata.get("course")) for path in store.lessons()]
    return [(path, course) for path, course in found if course]


def write_tables() -> None:
    """Write what repeats the lessons' metadata: the README's table and data/lessons.json."""
    path = store.ROOT / "README.md"
    block = f"{cards.BEGIN}\n{cards.readme_table(courses())}\n{cards.END}"
    text = path.read_text(encoding="utf-8")
    fresh = re.sub(f"{cards.BEGIN}.*?{cards.END}", lambda _: block, text, flags=re.S)
    store.put({path: fresh, store.LESSONS: lessons_json()})


def lessons_json() -> str:
    """The cards' metadata as the package carries it, for the preflight of an installed course."""
    return json.dumps([course for _, course in courses()], indent=1, ensure_ascii=False) + "\n"
