"""The package as a house: quick to enter, stairs that lead down only."""

import ast
import json
import subprocess
import sys

import pytest

from course_utils import notebooks

PACKAGE = notebooks.ROOT / "course_utils"
HEAVY = ("torch", "transformers", "matplotlib", "ipywidgets", "openai", "datasets", "bitsandbytes")
# From the ground floor up: a module imports from its own floor or from below. A module that is
# not named, like record_speed, lives with the one its name begins with.
FLOORS = (
    "errors units",
    "settings",
    "machine child",
    "models",
    "data",
    "sentiment",
    "llama2_format chat_templates perplexity",
    "gateway endpoint",
    "tensors holders shapes counters rungs memory predict fit",
    "record gptq autogptq",
    "tuning plots explorers",
    "ladders",
    "checks exercises",
    "cards notebooks notebook_checks preflight lab validate publish classroom",
    "__main__",
)
FLOOR = {name: n for n, names in enumerate(FLOORS) for name in names.split()}
MODULES = sorted(PACKAGE.rglob("*.py"))


def place(path) -> str:
    """A module's name inside the package: "models"; for all exercises, "exercises"."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def floor(name: str) -> int:
    """The floor of a module; -1 for one that nobody has given a floor."""
    return FLOOR.get(name, FLOOR.get(name.partition("_")[0], -1))


def imports_of(path) -> set[str]:
    """The package's own modules that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are written in full"
            if node.module == "course_utils":
                found |= {one.name for one in node.names}
            elif (node.module or "").startswith("course_utils."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {
                one.name.split(".")[1] for one in node.names if one.name.startswith("course_utils.")
            }
    return found - {"__version__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_lead_downwards(path):
    """An instructor who changes a module knows what can break: what stands above it."""
    if path.name == "__init__.py":
        assert not imports_of(path)
        return
    own = floor(place(path))
    assert own >= 0, f"{path.name} has no floor yet: put it into FLOORS"
    for other in imports_of(path):
        assert floor(other) <= own, f"{path.name} imports {other} from above it"


def test_no_notebook_is_imported():
    """The lessons stand on the package, never the other way round."""
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert "import notebooks." not in text
        assert "pocket_llama." not in "".join(
            line for line in text.splitlines() if line.startswith(("import ", "from "))
        )


def test_importing_is_cheap():
    """A learner's first cell answers at once: under 0.3 s, and no heavy library is loaded."""
    program = (
        "import json, sys, time; began = time.perf_counter(); import course_utils; "
        "seconds = time.perf_counter() - began; "
        f"print(json.dumps([seconds, [m for m in {HEAVY} if m in sys.modules]]))"
    )
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True).stdout)
        for _ in range(3)
    ]
    assert min(seconds for seconds, _ in runs) < 0.3
    assert runs[0][1] == []


def test_no_module_loads_a_heavy_library_when_imported():
    """A learner who asks for one helper does not wait for PyTorch."""
    names = [f"course_utils.{place(p)}" for p in MODULES if p.parent == PACKAGE]
    names = [name for name in names if not name.endswith(("__init__", "__main__"))]
    program = (
        f"import importlib, sys\nfor name in {names}:\n    importlib.import_module(name)\n"
        f"    print(name, [m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if not line.endswith("[]")] == []
