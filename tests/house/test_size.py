"""The house stays readable: short modules, short functions, few rooms, no back doors."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from course_staff.notebooks import store as notebooks

WINGS = ("course_utils", "course_staff", "pocket_training")
MODULES = [path for wing in WINGS for path in sorted((notebooks.ROOT / wing).rglob("*.py"))]
LINES, FUNCTION, GROUND = 350, 45, 16
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def name(path: Path) -> str:
    return path.relative_to(notebooks.ROOT).as_posix()


def functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(name, lines) of every function, those inside others included."""
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_and_functions_can_be_read_at_one_sitting(path):
    """An instructor who changes one thing reads one file, and of it one screen."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES
    long = {which: lines for which, lines in functions(ast.parse(text)) if lines > FUNCTION}
    assert not long


def test_the_helper_package_stays_small():
    """A learner who looks into the helper package finds their way: few modules at its ground."""
    assert len(list((notebooks.ROOT / "course_utils").glob("*.py"))) <= GROUND


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_every_module_and_public_function_says_what_it_is_for(path):
    """An instructor who opens a file reads in its first lines whether it is theirs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    bare = [node.name for node in tree.body if isinstance(node, (*FUNCTIONS, ast.ClassDef))
            and not node.name.startswith("_") and not ast.get_docstring(node)]  # fmt: skip
    assert not bare


def imported(tree: ast.AST) -> dict[str, str]:
    """{name in this module: what it names} of what is imported from the three wings."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(WINGS):
            found |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
        elif isinstance(node, ast.Import):
            ours = [one for one in node.names if one.name.startswith(WINGS)]
            found |= {one.asname or one.name: one.name for one in ours}
    return found


def private(word: str) -> bool:
    return word.startswith("_") and not word.endswith("__")


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_module_uses_anothers_private_names(path):
    """A maintainer who changes a private name breaks nothing in another file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = imported(tree)
    used = [full for full in names.values() if private(full.rpartition(".")[2])]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr):
            owner = ast.unparse(node.value)
            if owner in names:
                used.append(f"{names[owner]}.{node.attr}")
    assert not used
