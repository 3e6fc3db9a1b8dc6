"""The files of a checkpoint: its JSON, its shards and their index, and what is refused of them."""

import json
from pathlib import Path
from typing import Any

from course_utils.errors import CourseError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object; an empty dict where there is no file.

    Raises:
        CourseError: it is cut off, is no text, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise odd(path.parent, f"{path.name} cannot be read: {error}.") from None
    if not isinstance(found, dict):
        raise odd(path.parent, f"{path.name} holds no settings by name.")
    return found


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file the way transformers does."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def odd(folder: Path, why: str) -> CourseError:
    """The refusal of what is not understood."""
    return CourseError(
        f"The checkpoint {folder.name!r} is not one that the course understands.",
        why,
        "Get the whole checkpoint again from where it came, or quantize the fp16 model yourself.",
    )


def index_of(folder: Path, files: tuple[str, ...]) -> str:
    """The name of the index of a checkpoint in shards; empty where there is one file of weights.

    Raises:
        CourseError: no weights, a shard that is missing, or files that no index explains.
    """
    found = sorted(path.name for path in folder.glob("*.safetensors.index.json"))
    if not files:
        raise odd(folder, "There is no .safetensors file in it; pickled weights are not read.")
    if not found and len(files) == 1:
        return ""
    if len(found) != 1:
        raise odd(folder, f"It has {len(files)} files of weights and {len(found)} indexes.")
    where = read_json(folder / found[0]).get("weight_map")
    named = set(map(str, where.values())) if isinstance(where, dict) else set()
    if missing := sorted(named - set(files)):
        raise odd(folder, f"{found[0]} names {missing[0]}, which is missing.")
    if extra := sorted(set(files) - named):
        raise odd(folder, f"{found[0]} does not name {extra[0]}.")
    return found[0]
