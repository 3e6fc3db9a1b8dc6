"""Which code of a notebook an exercise needs: its cell, and the lines above that it stands on.

A lesson takes minutes to run, its exercises milliseconds. So only what an exercise's cell names is
taken along, and what that names in turn. The notebook is a stranger's: nothing here is run.
"""

import ast
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

ANSWER = "__answer__"  # what a cell's `check(key, answer)` becomes
KEY = re.compile(r"\d\d\.\d+")
CHECKED = re.compile(r"\bcheck\(\s*[\"'](\d\d\.\d+)[\"']")
ATTEMPTS = 3  # cells of one exercise that are tried, the last ones
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


@dataclass
class Program:
    """What to run for one exercise's cell: `source` names its answers with `ANSWER`."""

    keys: list[str]
    source: str = ""
    problem: str = ""  # why there is nothing to run


@dataclass
class _Cell:
    """A code cell: its statements' places in the whole notebook, and the exercises it checks."""

    keys: list[str] = field(default_factory=list)
    places: range = range(0)
    problem: str = ""


def code_cells(raw: bytes) -> list[str]:
    """The sources of a notebook's code cells, in order.

    Raises:
        ValueError: it is no notebook.
    """
    try:
        found = json.loads(raw)
        cells = [cell for cell in found["cells"] if cell.get("cell_type") == "code"]
        sources = [cell.get("source", "") for cell in cells]
        return ["".join(one) if isinstance(one, list) else str(one) for one in sources]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("This is no notebook.") from None


class _Answers(ast.NodeTransformer):
    """Turns every `check("02.1", answer)` into `__answer__("02.1", answer)`."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def visit_Call(self, node: ast.Call) -> Any:
        """Rename the call if it is a check."""
        self.generic_visit(node)
        called = node.func.attr if isinstance(node.func, ast.Attribute) else None
        called = node.func.id if isinstance(node.func, ast.Name) else called
        first = node.args[0] if node.args else None
        key = first.value if isinstance(first, ast.Constant) else None
        if called != "check" or not isinstance(key, str) or not KEY.fullmatch(key):
            return node
        starter = len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
        if not (starter and node.args[1].value is ...):  # type: ignore[attr-defined]
            self.keys.append(key)
        node.func = ast.Name(ANSWER, ast.Load())
        return node


def _parsed(source: str) -> ast.Module:
    """A cell's syntax, Jupyter's own (`%time`, `!ls`) turned into calls."""
    from IPython.core.inputtransformer2 import TransformerManager

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(TransformerManager().transform_cell(source))


def bound(statement: ast.stmt) -> set[str]:
    """The names that a statement gives a meaning, at the notebook's top."""
    found = set()

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        if not isinstance(node, SCOPES):
            for child in ast.iter_child_nodes(node):
                walk(child)

    walk(statement)
    return found


def named(statement: ast.stmt) -> set[str]:
    """The names that a statement reads, those inside its functions included."""
    names = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, ast.Load)}


def _needed(statements: Sequence[ast.stmt], cell: range) -> list[int]:
    """The places of a cell's statements and of all that they stand on, in order."""
    binds = [bound(one) for one in statements[: cell.stop]]
    taken, waiting = set(cell), list(cell)
    while waiting:
        place = waiting.pop()
        for name in named(statements[place]):
            above = [i for i in range(place) if name in binds[i]]
            below = [i for i in range(place, cell.stop) if name in binds[i]]
            last = (above or below)[-1:]  # a function may use what is defined below it
            fresh = set(last) - taken
            taken |= fresh
            waiting += fresh
    return sorted(taken)


def programs(sources: Sequence[str]) -> Iterator[Program]:
    """One program for each cell of these that checks an exercise, other than with `...`."""
    statements: list[ast.stmt] = []
    cells = []
    for source in sources:
        cell = _Cell()
        try:
            change = _Answers()
            body = change.visit(_parsed(source)).body
            cell.keys = list(dict.fromkeys(change.keys))
            cell.places = range(len(statements), len(statements) + len(body))
            statements += body
        except SyntaxError as error:
            cell.keys = list(dict.fromkeys(CHECKED.findall(source)))
            cell.problem = f"your cell is no Python: {error.msg} (line {error.lineno})"
        except (ValueError, RecursionError, MemoryError):
            cell.keys = list(dict.fromkeys(CHECKED.findall(source)))
            cell.problem = "your cell cannot be read"
        cells.append(cell)
    counts: dict[str, int] = {}
    kept = []
    for cell in reversed(cells):
        cell.keys = [key for key in cell.keys if counts.get(key, 0) < ATTEMPTS]
        counts |= {key: counts.get(key, 0) + 1 for key in cell.keys}
        if cell.keys:
            kept.append(cell)
    for cell in reversed(kept):
        program = Program(cell.keys, problem=cell.problem)
        if not cell.problem:
            body = [statements[i] for i in _needed(statements, cell.places)]
            program.source = ast.unparse(ast.Module(body, []))
        yield program


def keys(sources: Sequence[str]) -> set[str]:
    """All exercises that a notebook's cells check, the untouched ones too."""
    return {key for source in sources for key in CHECKED.findall(source)}
